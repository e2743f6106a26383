"""The one door: what people hand over becomes what the code computes with, or one sentence."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas
import pytest
import torch

from galflow_lite.inputs import as_array, as_tensor, as_whole, child_seed

ROWS = np.array([[1.0, 20.0], [2.0, 30.0], [4.0, 50.0]])


STRUCTURED = np.array([(20.0, 1.0), (30.0, 2.0), (50.0, 4.0)], dtype=[("b", ">f4"), ("a", "<f8")])
SAME = {
    "plain": ROWS,
    "integers": ROWS.astype(np.int16),
    "Fortran order": np.asfortranarray(ROWS),
    "read-only": np.frombuffer(ROWS.tobytes()).reshape(3, 2),
    "integer tensor": torch.tensor(ROWS).long(),
    "objects": ROWS.astype(object),
}
BY_NAME = {
    "table in another order": pandas.DataFrame({"b": ROWS[:, 1], "c": [0, 0, 0], "a": ROWS[:, 0]}),
    "structured": STRUCTURED,
    "mapping": {"b": [20, 30, 50], "a": ROWS[:, 0]},
}


@pytest.mark.parametrize("kind", [*SAME, *BY_NAME])
@pytest.mark.parametrize("convert", [as_array, as_tensor])
def test_all_kinds_of_arrays_are_the_same(convert, kind):
    found = convert({**SAME, **BY_NAME}[kind], "x", ("n", 2), columns=("a", "b"))
    if convert is as_array:
        assert found.dtype == np.dtype("=f8")
        assert found.flags.c_contiguous
    else:
        assert found.is_floating_point()
    np.testing.assert_array_equal(np.asarray(found, dtype=float), ROWS)


def test_a_series_is_an_array_and_a_missing_value_is_named_with_its_column():
    frame = pandas.DataFrame({"b": ROWS[:, 1], "a": ROWS[:, 0]}, index=[7, 8, 9])
    np.testing.assert_array_equal(as_array(frame["a"], "x", ("n",)), ROWS[:, 0])
    frame.loc[8, "a"] = None
    with pytest.raises(ValueError, match="1 of 3 rows in column a"):
        as_array(frame, "x", columns=("a", "b"))


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_a_masked_value_is_no_value(dtype):
    values = np.ma.masked_array(ROWS.astype(dtype), mask=ROWS == 2)
    with pytest.raises(
        ValueError, match="NaN, infinite or masked values in 1 of 3 rows in col.* a"
    ):
        as_array(values, "x", columns=("a", "b"))
    found = as_array(values, "x", finite=False)
    np.testing.assert_array_equal(np.isnan(found), ROWS == 2)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_what_is_not_finite(kind, bad):
    for convert in (as_array, as_tensor):
        with pytest.raises(ValueError, match="^x has NaN, infinite or masked values in 1 of 3"):
            convert(kind([1.0, bad, 2.0]), "x")
        assert len(convert(kind([1.0, bad]), "x", finite=False)) == 2
        if math.isinf(bad):
            assert len(convert(kind([1.0, bad]), "x", infinite=True)) == 2
        else:
            with pytest.raises(ValueError, match="NaN"):
                convert(kind([1.0, bad]), "x", infinite=True)


@pytest.mark.parametrize(
    "value",
    [["a", "b"], [[1], [2, 3]], [1 + 2j], None, object(), [None, "a"], torch.tensor([1j])],
)
@pytest.mark.parametrize("convert", [as_array, as_tensor])
def test_what_is_no_array_of_numbers(convert, value):
    with pytest.raises(ValueError, match=r"^x .*expected"):
        convert(value, "x", ("n",))


def test_shapes_and_missing_columns():
    for convert in (as_array, as_tensor):
        with pytest.raises(ValueError, match="x has several columns 'a', expected one"):
            convert(pandas.DataFrame(ROWS[:, :2], columns=["a", "a"]), "x")
        with pytest.raises(ValueError, match=r"shape \(3, 2\), expected \(n, 3\)"):
            convert(ROWS, "x", ("n", 3))
        with pytest.raises(ValueError, match="x has no column 'c', it has a, b"):
            convert({"a": [1], "b": [2]}, "x", columns=("a", "c"))
        with pytest.raises(ValueError, match="different lengths {'a': 1, 'b': 2}"):
            convert({"a": [1], "b": [2, 3]}, "x", columns=("a", "b"))


def test_values_that_the_type_cannot_hold_are_named_with_their_column():
    grams = {"mass": [2e43, 3e43], "x": [0.0, 1.0]}
    with pytest.raises(ValueError, match=r"in column mass reaches 3e\+43, which float32 cannot"):
        as_array(grams, "stars", columns=("x", "mass"), dtype=np.float32)
    as_array(grams, "stars", columns=("x", "mass"))


@pytest.mark.parametrize(
    ("values", "dtype"), [([1e8 - 2, 1e8 + 2], np.float32), ([2**60, 2**60 + 1], np.float64)]
)
def test_differences_that_rounding_eats_are_warned_of(values, dtype):
    with pytest.warns(RuntimeWarning, match="resolves to less than three digits"):
        as_array(values, "x", dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_array([1.0, 2.0, 1e6], "x", dtype=np.float32)
        as_array([5, 5], "x", dtype=np.float32)
        assert as_array(np.array([True, False]), "mask").tolist() == [1, 0]


def test_tensors_follow_the_model_and_keep_their_graph():
    model = torch.nn.Linear(2, 1).double()
    x = torch.ones(3, 2, requires_grad=True)
    found = as_tensor(x, "x", ("n", 2), like=model)
    assert found.dtype == torch.float64
    found.sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 2))
    assert as_tensor(ROWS, "x", like=model.half()).dtype == torch.half
    assert as_tensor([1, 2], "x").dtype == torch.float64
    assert as_tensor(torch.ones(2), "x").dtype == torch.float32
    # A copy: writing into the tensor must not write into what a person handed over.
    as_tensor(SAME["read-only"], "x").add_(1)
    np.testing.assert_array_equal(SAME["read-only"], ROWS)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers(value):
    found = as_whole(value, "n")
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [-1, 1.0, "3", None, True, np.True_, [3], math.nan])
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="^n is .*, expected a whole number of at least 0"):
        as_whole(value, "n")


def test_streams_of_one_seed_and_of_neighbouring_seeds_differ():
    found = {child_seed(seed, name) for seed in range(200) for name in ("start", "chain", 0, 1)}
    assert len(found) == 800
    assert not found & set(range(1000))
    assert child_seed(3, "a", "b") != child_seed(3, "b", "a")
