"""A pretended CUDA or Apple device: tensors of the CPU that keep its rules about devices.

The storage of a tensor is marked as being on the device or on the host; one without a mark was made
inside torch and goes with what it meets. A function mode sees calls that name a device or leave
torch; a dispatch mode sees every operation, those of a backward pass too: it refuses to mix devices
and counts what the host would wait for. A graph records a capture, undoes what that has changed,
and repeats it on the same memory with the numbers of then. Apple's device, "mps", refuses double
precision. Random numbers are those of the CPU; kernels, their speed and their rounding are not
pretended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
from torch import Tensor
from torch.nn.utils import clip_grad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

real_device, real_parse = torch._C.TensorBase.device, torch._C._nn._parse_to
functorch, real_groups = torch._C._functorch, clip_grad._group_tensors_by_device_and_dtype
# Operations whose result, or the shape of it, the host must know.
WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal"}


def storage(x: Tensor) -> torch.UntypedStorage:
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x.untyped_storage()


def mark(x: Tensor) -> bool | None:
    """True on the device, False on the host, None for neither."""
    with torch._C.DisableTorchFunction():
        return None if x.is_meta else getattr(storage(x), "on_device", None)


def put(x: Tensor, there: bool) -> Tensor:
    if there and Device.kind == "mps" and x.dtype == torch.float64:
        raise TypeError("cannot convert an MPS tensor to float64, which it does not support")
    with torch._C.DisableTorchFunction():
        if not x.is_meta:
            storage(x).on_device = there
    return x


def home(x: Tensor) -> torch.device:
    return torch.device(Device.kind, 0) if mark(x) else real_device.__get__(x)


def parse(*args, **kwargs) -> tuple:
    """What `.to` is asked for, as torch has it; device and type of a tensor are those of ours."""
    if args and isinstance(args[0], Tensor):
        args = home(args[0]), args[0].dtype, *args[1:]
    return real_parse(*args, **kwargs)


def groups(*args) -> dict:
    found = real_groups(*args).values()
    return {(home(lists[0][0]), lists[0][0].dtype): (lists, rows) for lists, rows in found}


def from_numpy(array, real=torch.from_numpy) -> Tensor:
    return put(real(array), False)  # unseen by the modes


class Generator(torch.Generator):
    def __new__(cls, device: object = "cpu") -> Generator:
        made = super().__new__(cls)
        made.home = torch.device(device)
        return made

    device = property(lambda self: self.home)


class Copy(torch.autograd.Function):
    """To the device or back; its gradient goes the other way."""

    @staticmethod
    def forward(ctx, x: Tensor, there: bool) -> Tensor:
        return put(x.clone(), there)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return Copy.apply(gradient, not mark(gradient)), None


class Device(TorchDispatchMode):
    """What happens: `waits` of the host, `launches` of operations there, bytes `sent` there."""

    kind = "cuda"
    graph: Graph | None = None

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.launches, self.sent = Counter(), 0, []

    def wait(self, what: str) -> None:
        if self.graph is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        self.waits[what] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.removeprefix("aten::")
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        marks = [mark(x) for x in given]
        here, copies = True in marks, name in ("copy_", "_foreach_copy_")
        for x, where in zip(given, marks, strict=True):
            # A number of the host may take part, but not receive.
            foreign = here and where is False and (x.dim() or (x is given[0] and name[-1] == "_"))
            if foreign and name in ("index", "index_put_") and marks[0]:
                self.wait(f"{name} by rows of the host")
            elif foreign and copies:
                self.wait(name)
            elif foreign and not name.startswith("_fused"):
                raise RuntimeError(f"tensors on {self.kind}:0 and on the cpu meet in {name}")
            elif where is None and (here or False in marks):
                put(x, here)
        masks = name.startswith("index") and any(x.dtype == torch.bool for x in given[1:])
        if here and (name in WAITS or masks):
            self.wait(name)
        view = func.is_view or name in ("detach", "alias", "lift_fresh", "_unsafe_view", "set_")
        fresh = not view and name[-1] != "_"
        recording = self.graph is not None and False not in marks
        if recording:
            self.graph.before(func, args, kwargs)
        found = func(*args, **kwargs)
        self.launches += here and not view
        if fresh and (here or False in marks):
            [put(x, here) for x in tree_leaves(found) if isinstance(x, Tensor)]
        if recording:
            self.graph.calls.append((func, args, kwargs, found if fresh else None))
        return found


class Calls(TorchFunctionMode):
    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), getattr(func, "__name__", "")
        x = args[0] if args and isinstance(args[0], Tensor) else None
        if x is not None and name in ("to", "cuda", "cpu"):
            return self.to(x, args[1:] if name == "to" else (name,), kwargs)
        if x is not None and mark(x) and name in ("numpy", "__array__"):
            raise TypeError("can't convert a tensor of the device to numpy: use Tensor.cpu() first")
        if x is not None and mark(x) and name == "tolist":
            self.device.wait(name)
        there = mark(x) if x is not None and name.startswith("new_") else None
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type != "meta":
            there = torch.device(kwargs["device"]).type == Device.kind
            kwargs["device"] = "cpu"
        if kwargs.get("generator") is not None:
            place = mark(x) if there is None and x is not None else there
            if (kwargs["generator"].device.type == Device.kind) != bool(place):
                raise RuntimeError(f"the generator of {name} belongs to another device")
        found = func(*args, **kwargs)
        if name in ("as_tensor", "asarray") and there is not None:
            return self.move(found, there)
        if there and name in ("tensor", "new_tensor"):
            self.device.wait(name)
        alone = not any(isinstance(part, Tensor) for part in tree_leaves((args, kwargs)))
        if isinstance(found, Tensor) and (there is not None or (alone and mark(found) is None)):
            put(found, bool(there))
        return found

    def to(self, x: Tensor, args: tuple, kwargs: dict) -> Tensor:
        device, dtype, non_blocking, _ = parse(*args, **kwargs)
        if x.is_meta or (device is not None and device.type == "meta"):
            return x.to(device, dtype)
        found = x if dtype is None else x.to(dtype)
        there = mark(x) if device is None else device.type == Device.kind
        return self.move(found, bool(there), not non_blocking)

    def move(self, x: Tensor, there: bool, waits: bool = True) -> Tensor:
        if bool(mark(x)) == there:
            return x
        if there:
            self.device.sent.append(x.nbytes)
        if waits or not there:
            self.device.wait(f"copy to the {'device' if there else 'host'}")
        return Copy.apply(x, there)


class Graph:
    def __init__(self) -> None:
        self.calls, self.changed = [], []

    def before(self, func, args: tuple, kwargs: dict) -> None:
        """Keep what the call will overwrite."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self.changed += [(x, x.clone()) for x in tree_leaves(value)]

    def repeat(self) -> None:
        with torch.no_grad(), torch._C.DisableTorchFunction(), _disable_current_modes():
            for func, args, kwargs, found in self.calls:
                again = func(*args, **kwargs)
                if found is not None:
                    for x, value in zip(tree_leaves(found), tree_leaves(again), strict=True):
                        x.copy_(value)


@contextmanager
def pretended(kind: str = "cuda") -> Iterator[Device]:
    """Calls of torch inside find a device, "cuda" or "mps"."""
    device = Device()

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        device.graph = graph
        yield
        device.graph = None
        with torch.no_grad():
            [x.copy_(value) for x, value in reversed(graph.changed)]

    def replay(graph: Graph) -> None:
        graph.repeat()
        device.launches += 1

    def state_of() -> dict:
        # Made again for each module: torch's compiler refuses one function under two names.
        found = dict(get_rng_state=lambda *_: torch.get_rng_state())
        return found | dict(set_rng_state=lambda state, *_: torch.set_rng_state(state))

    fakes = dict(state_of(), current_device=lambda: 0, graph=capture)
    fakes |= dict(CUDAGraph=type("CUDAGraph", (Graph,), {"replay": replay}))
    fakes |= dict(Stream=mock.Mock, current_stream=mock.Mock, stream=lambda _: nullcontext())
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(Device, "kind", kind))
        stack.enter_context(mock.patch.multiple(torch.cuda, **fakes))
        stack.enter_context(mock.patch.multiple(torch.mps, **state_of()))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(mock.patch.object(torch, "from_numpy", from_numpy))
        stack.enter_context(mock.patch.object(torch._C._nn, "_parse_to", parse))
        groups_of = "_group_tensors_by_device_and_dtype"
        stack.enter_context(mock.patch.object(clip_grad, groups_of, groups))
        stack.enter_context(mock.patch.object(Tensor, "device", property(home), create=True))
        stack.enter_context(Calls(device))
        yield stack.enter_context(device)
