"""`segdcn benchmark ...`: what things cost, measured on this machine."""

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from segdcn.device import chosen_device, out_of_memory
from segdcn.errors import UserValueError
from segdcn.timing import Timing, alternate, machine, peak_memory
from segdcn.verbs import benchmark_rois
from segdcn.verbs.report_file import check_report_file, write_report

# (B, C, H, W, O, dilation), 3x3: res5 of a small and of a large image, res4 of a wide one,
# and many small maps. With a depth before the height, 3x3x3: a short clip of video.
SIZES = ["1,512,33,33,512,2", "2,512,64,64,512,1", "1,256,64,128,256,1", "8,64,32,32,64,1", "1,128,8,28,28,128,1"]
Operator = Literal["deform_conv", "deform_roi_pool", "deform_psroi_pool"]
DType = Literal["float32", "float64", "bfloat16", "float16"]
DTYPES: list[DType] = ["float32"]
Candidate = Literal["segdcn", "conv2d", "conv3d", "torchvision", "onnxruntime", "reference"]
CANDIDATES: list[Candidate] = list(get_args(Candidate))
OURS, PLAIN, PLAIN3D, TORCHVISION, ONNXRUNTIME, REFERENCE = CANDIDATES


@dataclass(frozen=True)
class Size:
    """One modulated 3x3, or with a depth 3x3x3, convolution that keeps its input's size."""

    batch: int
    channels: int
    height: int
    width: int
    out_channels: int
    dilation: int
    depth: int | None = None

    @property
    def pixels(self) -> tuple[int, ...]:
        """(D,) H, W."""
        return (self.height, self.width) if self.depth is None else (self.depth, self.height, self.width)

    def __str__(self) -> str:
        """Write it as parse reads it."""
        return ",".join(map(str, (self.batch, self.channels, *self.pixels, self.out_channels, self.dilation)))

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Read B,C,H,W,O,dilation or B,C,D,H,W,O,dilation."""
        parts = text.replace(" ", "").split(",")
        if len(parts) not in (6, 7) or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UserValueError(
                f"size {text!r} is not B,C,H,W,O,dilation or B,C,D,H,W,O,dilation: six or seven numbers of at least 1, "
                f"such as {SIZES[0]}"
            )
        numbers = list(map(int, parts))
        depth = numbers.pop(2) if len(numbers) == 7 else None
        size = replace(cls(*numbers), depth=depth)
        pixels = size.height * size.width * (depth or 1)
        fields = 27 if depth is None else 4 * 27
        needed = 4 * (size.batch * pixels * (size.channels + fields + size.out_channels) + size.weights)
        if pixels >= 2**31 - 1 or needed > _memory():
            raise UserValueError(
                f"size {text!r} is too large: its tensors alone take {needed / 2**30:.0f} GiB, and "
                f"this machine has {_memory() / 2**30:.0f}; an image has less than 2**31 - 1 pixels"
            )
        return size

    @property
    def weights(self) -> int:
        """Elements of the weight."""
        return (9 if self.depth is None else 27) * self.channels * self.out_channels


def ops(
    sizes: list[str] | None = None,
    dtypes: list[DType] = DTYPES,
    candidates: list[Candidate] = CANDIDATES,
    backward: bool = True,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 9,
    json: str | None = None,
    operator: Operator = "deform_conv",
) -> None:
    """Time operators against others: deform_conv2d and deform_conv3d, unless `operator` names a RoI pooling.

    All candidates of a convolution compute a modulated 3x3 (3x3x3) one of the same numbers and take turns in
    one run; the table shows medians, segdcn's time as a multiple of the other's, and the memory
    that a call needs beyond inputs, outputs and gradients. conv2d (conv3d) is the plain convolution,
    channels-last; reference is the definition in plain torch. onnxruntime has no backward and is
    left out where it is not installed. RoI poolings have 7x7 bins with offsets; torchvision's roi_align and
    ps_roi_align, which have none, are timed without.

    Example:
        segdcn benchmark ops --sizes '["2,512,64,64,512,1"]' --threads 2

    Args:
        sizes: Convolutions to time, each B,C,H,W,O,dilation, or with a depth B,C,D,H,W,O,dilation; or RoI
            poolings, each B,C,H,W,R,samples (C: of the result); null is some of them.
        dtypes: Of input and weight; offsets and masks are float32, or float64 with float64.
            torchvision wants all of one dtype, and has no bfloat16.
        candidates: Which to time; segdcn always is.
        backward: Time forward and backward too.
        threads: Threads of the CPU; null is torch's choice.
        device: cpu or cuda.
        rounds: How often each candidate is timed; at least 2.
        json: Also write the figures, in seconds and bytes, to this file.
        operator: What to time.

    Raises:
        UserValueError: A size, a device or a number that does not fit, or a file that cannot be written.
    """
    if rounds < 2 or (threads is not None and threads < 1):
        raise UserValueError(f"rounds is {rounds} and threads {threads}; at least 2 rounds and 1 thread are needed")
    if sizes == [] or not dtypes:
        raise UserValueError(f"{'sizes' if sizes == [] else 'dtypes'} is empty; name at least one, or leave it out")
    if json is not None:
        check_report_file(json)
    parsed, prepare = _workload(operator, sizes)
    target = chosen_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    with Progress(transient=True) as progress:
        task = progress.add_task("timing", total=len(parsed) * len(dtypes) * (1 + backward))
        for size, dtype, with_backward in product(parsed, dtypes, [False, True][: 1 + backward]):
            progress.update(task, description=f"{size} {dtype} {_direction(with_backward)}")
            try:
                calls = prepare(size, getattr(torch, dtype), target, with_backward)
                calls = {name: call for name, call in calls.items() if name == OURS or name in candidates}
                timings = alternate(calls, rounds, target)
                memory = {name: peak_memory(call, target) for name, call in calls.items()}
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                raise UserValueError(f"size {size} in {dtype} does not fit into the memory of {target}") from error
            rows.append(_row(size, dtype, with_backward, timings, memory))
            progress.advance(task)
    where = f"{machine(target)}; torch {torch.__version__}; medians of {rounds} alternating rounds"
    Console().print(_table(rows, operator), where)
    if json is not None:
        write_report(json, {"machine": where, "rows": rows})


def _memory() -> float:
    """Return the bytes of this machine's memory; infinity where it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def _workload(operator: Operator, sizes: list[str] | None) -> tuple[list[Any], Callable[..., dict[str, Callable]]]:
    """Return the sizes to time, and what prepares the candidates for one of them."""
    if operator == "deform_conv":
        return [Size.parse(size) for size in (SIZES if sizes is None else sizes)], _candidates
    usual = benchmark_rois.SIZES if operator == "deform_roi_pool" else benchmark_rois.PS_SIZES
    parsed = [benchmark_rois.RoiSize.parse(size) for size in (usual if sizes is None else sizes)]
    return parsed, partial(benchmark_rois.candidates, operator)


def _candidates(
    size: Size, dtype: torch.dtype, device: torch.device, backward: bool
) -> dict[str, Callable[[], object]]:
    """Return what to time, by name: each computes the same convolution."""
    import torchvision

    from segdcn.ops import deform_conv2d, deform_conv3d, reference

    generator = torch.Generator().manual_seed(0)
    flat = size.depth is None
    last = torch.channels_last if flat else torch.channels_last_3d
    deform, plain = (deform_conv2d, F.conv2d) if flat else (deform_conv3d, F.conv3d)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(shape, generator=generator) * scale).to(device)

    batch, spread, dims = size.batch, size.dilation, len(size.pixels)
    taps = 3**dims
    image = normal(batch, size.channels, *size.pixels).to(dtype)
    weight = normal(size.out_channels, size.channels, *[3] * dims, scale=(taps * size.channels) ** -0.5).to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    offset = normal(batch, dims * taps, *size.pixels, scale=2.0).to(exact)  # pixels: what trained layers reach
    mask = normal(batch, taps, *size.pixels).sigmoid().to(exact) * 2
    grad = normal(batch, size.out_channels, *size.pixels).to(dtype)

    def prepare(layout: torch.memory_format, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return [t.contiguous(memory_format=layout).requires_grad_(backward) for t in tensors]

    def step(result: Callable[[], torch.Tensor], grad: torch.Tensor, leaves: list[torch.Tensor]) -> object:
        if not backward:
            with torch.no_grad():
                return result()
        output = result()
        return output.detach(), *torch.autograd.grad(output, leaves, grad)

    leaves = prepare(last, image, offset, weight, mask)
    x, o, w, m = leaves
    grad_last = grad.contiguous(memory_format=last)
    candidates: dict[str, Callable[[], object]] = {
        OURS: lambda: step(lambda: deform(x, o, w, None, 1, spread, spread, m), grad_last, leaves),
        PLAIN if flat else PLAIN3D: lambda: step(lambda: plain(x, w, None, 1, spread, spread), grad_last, [x, w]),
    }
    ours = (1,) * dims, (spread,) * dims, (spread,) * dims
    candidates[REFERENCE] = lambda: step(
        lambda: reference.deform_conv(x.to(exact), o, w.to(exact), None, *ours, m).to(dtype), grad_last, leaves
    )
    if not flat:  # the others have no third dimension
        return candidates
    if device.type == "cuda" and dtype in (torch.float16, torch.bfloat16):  # as networks are trained with it
        theirs = [*prepare(torch.contiguous_format, image, offset, weight, mask)]
        autocast: AbstractContextManager = torch.autocast("cuda", dtype)
    else:
        theirs = [*prepare(torch.contiguous_format, image, offset.to(dtype), weight, mask.to(dtype))]
        autocast = nullcontext()
    tx, to, tw, tm = theirs

    def torchvisions() -> torch.Tensor:
        with autocast:
            return torchvision.ops.deform_conv2d(tx, to, tw, None, 1, spread, spread, tm)

    if device.type == "cuda" or dtype != torch.bfloat16:  # torchvision has none on the CPU
        candidates[TORCHVISION] = lambda: step(torchvisions, grad, theirs)
    if not backward and dtype == torch.float32 and device.type == "cpu":
        session = _onnxruntime_session(size)
        if session is not None:
            feeds = {"X": image, "W": weight, "offset": offset, "mask": mask}
            arrays = {name: tensor.contiguous().numpy() for name, tensor in feeds.items()}
            candidates[ONNXRUNTIME] = lambda: session.run(None, arrays)
    return candidates


def _onnxruntime_session(size: Size) -> Any:
    """Return a session of one DeformConv, or None where onnxruntime or onnx is not installed."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError:
        return None
    spread = size.dilation
    node = helper.make_node(
        "DeformConv", ["X", "W", "offset", "", "mask"], ["Y"], pads=[spread] * 4, dilations=[spread] * 2
    )
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("X", "W", "offset", "mask")]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("Y", TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its idle threads would otherwise keep spinning on the processors that the others are timed on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _direction(backward: bool) -> str:
    return "fwd+bwd" if backward else "fwd"


def _row(
    size: Size, dtype: str, backward: bool, timings: dict[str, Timing], memory: dict[str, int | None]
) -> dict[str, Any]:
    return {
        "size": str(size),
        "dtype": dtype,
        "backward": backward,
        "seconds": {name: timing.median for name, timing in timings.items()},
        "spread": {name: round(timing.spread, 3) for name, timing in timings.items()},
        "memory": memory,
    }


def _table(rows: list[dict[str, Any]], operator: Operator) -> Table:
    """One line per candidate, so that it fits into 80 columns."""
    conv = operator == "deform_conv"
    table = Table(
        title="deform_conv2d, modulated 3x3; deform_conv3d, modulated 3x3x3" if conv else f"{operator}, 7x7 bins",
        caption="factor: segdcn's time as a multiple of the other's, below 1 segdcn is faster\n"
        "MiB: memory beyond inputs, outputs and gradients",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for name in ("B,C,(D,)H,W,O,dil." if conv else "B,C,H,W,R,samples", "dtype", "", ""):
        table.add_column(name, no_wrap=True)
    for name in ("ms", "factor", "MiB"):
        table.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        seconds = row["seconds"]
        names = [n for n in CANDIDATES if n in seconds]
        for name in names:
            head = (row["size"], row["dtype"], _direction(row["backward"])) if name == OURS else ("", "", "")
            factor = "" if name == OURS else f"[bold]{seconds[OURS] / seconds[name]:.2f}[/bold]"
            memory = row["memory"][name]
            used = "" if memory is None else f"{memory / 2**20:.1f}"
            table.add_row(*head, name, f"{1000 * seconds[name]:.2f}", factor, used, end_section=name == names[-1])
    return table
