"""A CUDA card emulated on CPU tensors: what CUDA refuses raises `Refused`, what makes the host wait is counted.

Tensors bear a tag that says they are on the card, or in pinned memory; the arithmetic is the CPU's. Every call of torch
made in Python is seen, those that torch makes within itself are not. Not emulated: kernels, streams, NCCL, compilers.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from types import FrameType, SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

CARD = torch.device("cuda", 0)

#: calls on a tensor of the card whose answer the host needs
ANSWERS = {
    *("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "equal", "allclose"),
    *("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "is_nonzero"),
}
#: linear algebra that asks the card whether it went well
FACTORED = {f"linalg_{name}" for name in ("solve", "inv", "eigh", "eigvalsh", "eigvals", "svd", "cholesky", "lstsq")}
#: UniPC's functions that solve a small linear system, for which they move lists to the card: counted apart
SOLVERS = {"multistep_uni_p_bh_update", "multistep_uni_c_bh_update"}
#: calls that look at a tensor's shape or kind alone, whatever device it is on
SHAPES = {
    *("size", "dim", "stride", "numel", "nelement", "element_size", "storage_offset", "__len__", "type", "data_ptr"),
    *("is_contiguous", "is_floating_point", "is_complex", "is_pinned", "is_shared", "is_set_to", "untyped_storage"),
    *("requires_grad_", "register_hook", "retain_grad", "_has_compatible_shallow_copy_type", "set_data"),
    *("expand_as", "view_as", "reshape_as", "swap_tensors", "type_as", "copy_"),
}
#: calls that take no scalar of the CPU beside tensors of the card
STRICT = {"cat", "stack", "concat", "index_select", "gather", "embedding", "scatter", "take_along_dim"}


class Refused(RuntimeError):
    """CUDA would not have done this."""


def on_card(x: Tensor) -> bool:
    """Whether a tensor is on the card."""
    return x.__dict__.get("card", False)


def tag(x: Tensor, card: bool, pinned: bool = False) -> Tensor:
    """Say where a tensor is."""
    x.__dict__.update(card=card, pinned=pinned)
    return x


def is_card(device: object) -> bool:
    """Whether a device, as torch's functions take it, is the card."""
    return isinstance(device, int) or torch.device(device).type == "cuda"  # type: ignore[arg-type]


def frames() -> Iterator[FrameType]:
    """The calls that are being carried out, the innermost first."""
    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        yield frame


def within_bdiff() -> str:
    """The line of bdiff that is being carried out, as file:line."""
    for frame in frames():
        name = frame.f_code.co_filename
        if "/bdiff/" in name and "site-packages" not in name:
            return f"{name.rpartition('/bdiff/')[2]}:{frame.f_lineno}"
    return "outside of bdiff"


class Card(TorchFunctionMode):
    """The emulated card; `waits` counts by what was done and the line that did it, `algebra` those of `SOLVERS`."""

    def __init__(self):
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.algebra: Counter[tuple[str, str]] = Counter()

    def __enter__(self):
        self.patches = ExitStack()
        for target, name, value in replacements(self):
            self.patches.enter_context(patch.object(target, name, value))
        return super().__enter__()

    def __exit__(self, *error):
        self.patches.close()
        return super().__exit__(*error)

    def wait(self, what: str) -> None:
        """Count that the host waits for the card."""
        own = any(frame.f_code.co_name in SOLVERS for frame in frames())
        (self.algebra if own else self.waits)[what, within_bdiff()] += 1

    @property
    def total(self) -> int:
        """How often the host waited so far."""
        return self.waits.total()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            return self.attribute(func, name, args, kwargs)
        if name in ("to", "cpu", "cuda") and isinstance(args[0], Tensor):
            return self.moved(name, *args, **kwargs)
        if name == "pin_memory":
            return tag(args[0].clone(), False, pinned=True)
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        there = any(map(on_card, tensors))
        if name in ("numpy", "__array__") and there:
            raise Refused(f"numpy from a tensor of the card at {within_bdiff()}")
        pinned = bool(kwargs.pop("pin_memory", False))
        expected = self.placed(name, tensors, there, kwargs)
        if there:
            self.judge(name, args, kwargs, tensors)
        out = func(*args, **kwargs)
        if name in ("__getitem__",) or name.endswith("_like"):
            there = on_card(args[0])
        for one in [out] if isinstance(out, Tensor) else tree_leaves(out) if isinstance(out, tuple | list) else []:
            if isinstance(one, Tensor) and not any(one is known for known in tensors):
                tag(one, there if expected is None else expected, pinned)
        return out

    def attribute(self, func, name, args, kwargs):
        """Read or set an attribute such as `device`, `data` or `grad`."""
        what = func.__self__.__name__
        if name == "__get__" and what in ("device", "is_cuda", "is_cpu"):
            card = on_card(args[0])
            truth = {"is_cuda": card, "is_cpu": not card}
            return (CARD if card else func(*args, **kwargs)) if what == "device" else truth[what]
        out = func(*args, **kwargs)
        if name == "__set__" and what == "data":
            tag(args[0], on_card(args[1]))
        if name == "__get__" and isinstance(out, Tensor) and on_card(args[0]):
            tag(out, True)
        return out

    def moved(self, name, x, *rest, **kwargs):
        """Carry out x.to(...), x.cpu() or x.cuda()."""
        before, after = on_card(x), {"cpu": False, "cuda": True}.get(name, on_card(x))
        other, device = kwargs.pop("other", None), kwargs.pop("device", None)
        if name == "to" and rest and not isinstance(rest[0], torch.dtype | bool):
            first, *rest = rest
            other, device = (first, device) if isinstance(first, Tensor) else (other, first)
        if other is not None:
            after, kwargs["dtype"] = on_card(other), other.dtype
        if device is not None:
            after = is_card(device)
        rest = [one for one in rest if isinstance(one, torch.dtype)]
        late = kwargs.pop("non_blocking", False)
        if before and not after and not late:
            self.wait("copy from the card")
        if after and not before and not (late and x.__dict__.get("pinned")):
            self.wait("copy to the card from ordinary memory")
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        out = x.to(*rest, **kwargs) if rest or kwargs else x
        if out is x and (before != after or kwargs.get("copy")):
            out = x.clone()
        return out if out is x else tag(out, after)

    def placed(self, name, tensors, there, kwargs) -> bool | None:
        """Take the device out of `kwargs`, and return whether it is the card, None where none is asked for."""
        draws, device = kwargs.get("generator"), kwargs.get("device")
        expected = None if device is None else is_card(device)
        if isinstance(draws, torch.Generator) and (there if expected is None else expected):
            raise Refused(f"{name} on the card by a generator of the CPU at {within_bdiff()}")
        if device is not None:
            kwargs["device"] = "cpu"
        if expected and name in ("tensor", "as_tensor", "asarray") and not (tensors and there):
            self.wait("copy to the card from ordinary memory")
        return expected

    def judge(self, name, args, kwargs, tensors) -> None:
        """Raise Refused where devices mix as CUDA does not allow, and count what waits; some tensor is on the card."""
        here = [one for one in tensors if not on_card(one)]
        if name in ANSWERS or (name == "where" and len(args) == 1):
            self.wait(name)
        if name == "one_hot" and kwargs.get("num_classes", args[1] if len(args) > 1 else -1) < 0:
            self.wait("one_hot without a number of classes")
        if name in FACTORED:
            self.wait(name)
        if name in ("__getitem__", "__setitem__"):
            self.indexed(name, args)
        elif here and name not in SHAPES and not name.endswith("_like"):
            if any(one.dim() for one in here) or name in STRICT:
                kinds = [(tuple(one.shape), "card" if on_card(one) else "cpu") for one in tensors]
                raise Refused(f"{name} of tensors on several devices {kinds} at {within_bdiff()}")
            if name.endswith("_") and not name.endswith("__") and not on_card(args[0]):
                raise Refused(f"{name} into a tensor of the CPU at {within_bdiff()}")

    def indexed(self, name, args) -> None:
        """Look at x[i] or x[i] = y."""
        x, indices = args[0], tree_leaves(args[1])
        tensors = [one for one in indices if isinstance(one, Tensor)]
        if not on_card(x):
            if any(one.dim() for one in tensors if on_card(one)):
                raise Refused(f"a tensor of the CPU indexed by one of the card at {within_bdiff()}")
            if any(map(on_card, tensors)):
                self.wait("index of the card")
        elif any(one.dtype in (torch.bool, torch.uint8) for one in tensors):
            self.wait("mask as an index")
        elif any(isinstance(one, list) for one in (args[1] if isinstance(args[1], tuple) else args[1:2])):
            self.wait("list as an index")
        elif any(not on_card(one) for one in tensors):
            self.wait("index of the CPU")
        if name == "__setitem__" and isinstance(args[2], Tensor) and args[2].dim() and on_card(args[2]) != on_card(x):
            if tensors:
                raise Refused(f"x[i] = y between devices at {within_bdiff()}")
            self.wait("copy between devices")


def replacements(card: Card) -> list[tuple[object, str, object]]:
    """What of torch is another one while the card is emulated: (where, name, value)."""
    load, autocast, copy = torch.load, torch.autocast, torch.nn.Parameter.__deepcopy__
    grouped, batches = torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype, DataLoader.__iter__

    class Event:
        """An event that has happened only when it is waited for."""

        def record(self) -> None: ...

        def query(self) -> bool:
            return False

        def synchronize(self) -> None:
            card.wait("event")

    def load_to(file, map_location=None, **options):
        out = load(file, map_location="cpu", **options)
        for one in tree_leaves(out):
            if isinstance(one, Tensor):
                tag(one, map_location is not None and is_card(map_location))
        return out

    def group(lists, with_indices=False):
        place = CARD if any(on_card(one) for one in lists[0]) else torch.device("cpu")
        return {(place, kind): found for (_, kind), found in grouped(lists, with_indices).items()}

    def pinned(loader):
        for batch in batches(loader):
            yield tag(batch, False, pinned=loader.pin_memory) if isinstance(batch, Tensor) else batch

    return [
        (torch, "load", load_to),
        (torch, "autocast", lambda kind, **options: autocast("cpu", **options)),
        (torch.nn.Parameter, "__deepcopy__", lambda self, memo: tag(copy(self, memo), on_card(self))),
        (torch.nn.utils.clip_grad, "_group_tensors_by_device_and_dtype", group),
        (DataLoader, "__iter__", pinned),
        (torch.cuda, "Event", Event),
        (torch.cuda, "mem_get_info", lambda device=None: (80 * 2**30, 80 * 2**30)),
        (torch.cuda, "get_device_name", lambda device=None: "emulated card"),
        (torch.cuda, "is_bf16_supported", lambda including_emulation=True: True),
        (torch.cuda, "synchronize", lambda device=None: card.wait("synchronize")),
    ]


def accelerator() -> SimpleNamespace:
    """Accelerate's handle on the card, for one process."""
    return SimpleNamespace(
        device=torch.device("cuda"),  # as Accelerate has it, without an index
        num_processes=1,
        process_index=0,
        is_main_process=True,
        wait_for_everyone=lambda: None,
        backward=lambda loss: loss.backward(),
        reduce=lambda x, how: x,
        prepare=lambda net: net,
    )
