"""Two processes under torchrun train as one does with the same global batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

COMMON = textwrap.dedent(
    """
    import torch
    from torch import nn
    from galflow_lite.training import TensorBatches, fit

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1)).double()
            self.register_buffer("ready", torch.tensor(False))

        def forward(self, x):
            return self.layers(x)

    def train(seed, batches=None, steps=24, **options):
        torch.manual_seed(seed)
        model = Network()
        x = torch.randn(130, 3, generator=torch.Generator().manual_seed(1)).double()
        y = x.prod(1, keepdim=True)
        held = TensorBatches(x[96:], y[96:], batch_size=10)
        loss = options.pop("loss", lambda model, b: (model(b[0]) - b[1]).square().mean())
        made = batches or TensorBatches(x[:96], y[:96], batch_size=16)
        history = fit(lambda b: loss(model, b), model, made, steps, learning_rate=0.01,
            validation=held, validate_every=5, ema_decay=0.9, clip_norm=1.0, **options)
        return model, history
    """
)

PROGRAM = COMMON + textwrap.dedent(
    """
    import json, math, os, sys
    from pathlib import Path
    from galflow_lite.training import TrainingDiverged, process_rank

    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    # A seed of its own in every process: the weights of the first one must count.
    model, history = train(seed=3 * rank)
    result = {"process": process_rank(), "loss": history.loss}
    result["validation"] = history.validation_loss
    result["weights"] = [p.tolist() for p in model.parameters()]

    # With noise, every process has a random stream of its own, and a resumed run goes on in it.
    draws = []
    def noisy(model, b):
        noise = torch.randn_like(b[1])
        if torch.is_grad_enabled():  # not in the validation
            draws.append(noise[0].item())
        return (model(b[0]) - b[1] - noise).square().mean()
    whole = train(seed=3, loss=noisy, progress=False)[1]
    result["noise"] = draws[0]

    def crashing(model, b):
        value = noisy(model, b)
        if len(draws) == 13:
            raise RuntimeError("power cut")
        return value
    path = folder / "run.safetensors"
    draws.clear()
    try:
        train(seed=3, loss=crashing, checkpoint=path, checkpoint_every=5, progress=False)
    except RuntimeError as error:
        assert str(error) == "power cut"
    draws.clear()
    resumed = train(seed=50, loss=noisy, checkpoint=path, checkpoint_every=5, progress=False)[1]
    result["resumed"] = len(draws) == 14 and resumed.loss == whole.loss

    # NaN in one process stops all of them at the same step.
    draws.clear()
    def bad(model, b):
        value = noisy(model, b)
        return value * math.nan if rank == 1 and len(draws) == 8 else value
    try:
        train(seed=0, loss=bad, progress=False)
    except TrainingDiverged as error:
        result["diverged"] = error.step

    try:
        train(seed=0, batches=TensorBatches(torch.zeros(9, 3), batch_size=9), progress=False)
    except ValueError as error:
        result["unequal"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(result))
    """
)


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> tuple[list[dict], str]:
    """What the two processes report, and what they print; started once, for it takes seconds."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "program.py").write_text(PROGRAM)
    arguments = ["--standalone", "--nproc_per_node=2", str(folder / "program.py"), str(folder)]
    environment = {"OMP_NUM_THREADS": "1", "GALFLOW_PROGRESS": "1", "GALFLOW_QUIET": "0"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--local-addr=127.0.0.1", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)], done.stderr


def test_loss_curve_is_that_of_one_process(results):
    (first, second), _ = results
    namespace = {}
    exec(COMMON, namespace)
    model, history = namespace["train"](seed=0, progress=False)
    assert (first["process"], second["process"]) == ([0, 2], [1, 2])
    for name in ("loss", "validation", "weights"):
        assert second[name] == first[name], name
    # Sums in another order: equal to rounding in double precision.
    assert first["loss"] == pytest.approx(history.loss, rel=1e-10)
    assert first["validation"] == pytest.approx(history.validation_loss, rel=1e-10)
    for found, parameter in zip(first["weights"], model.parameters(), strict=True):
        torch.testing.assert_close(torch.tensor(found).double(), parameter.detach())


def test_only_the_first_process_shows_progress_and_nothing_is_warned(results):
    _, printed = results
    assert printed.count("training:   0%") == 1
    assert "training: 100%" in printed
    assert "warn" not in printed.lower()


def test_noise_differs_between_processes_and_survives_a_pause(results):
    (first, second), _ = results
    assert first["noise"] != second["noise"]
    assert [first["resumed"], second["resumed"]] == [True, True]


def test_faults_stop_all_processes(results):
    for result in results[0]:
        assert result["diverged"] == 7
        assert "9 rows cannot be shared equally by 2 processes" in result["unequal"]
