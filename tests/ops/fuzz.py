"""Thousands of random deformable convolutions against the float64 definition.

    python tests/ops/fuzz.py --count 10000 --seed 0 [--json FILE]
    python tests/ops/fuzz.py --seed 0 --only 4711        # that case again, tensor by tensor

Cases take turns through the categories, and within a category through the dtypes. A category
stresses what it is named after; everything else varies too. A case depends on the seed and
its number alone. Its numbers are rounded to its dtype first, and the definition
(segdcn.ops.reference) gets the same numbers in float64.

Near a whole pixel the last bit of a position decides which pixels are read, and the slope
jumps there. float64 positions are the same on both sides, bit for bit; in the other dtypes
the operator's are float32, and reads keep 1/128 of a pixel away or lie exactly on one.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from geometry import Geometry, Pair, Tensors, relative_error
from torch import Tensor

from segdcn.ops import deform_conv2d, reference

Operator = Callable[..., Tensor]

CATEGORIES = (
    "groups",
    "offset groups",
    "strides",
    "dilations",
    "non-square kernels",
    "non-square maps",
    "tiny maps",
    "wide maps",
    "layouts",
    "dtypes",
    "offsets near",
    "offsets far",
    "offsets at the border",
    "offsets at whole pixels",
    "offsets NaN, infinite",
)
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

# What rounding explains, for the unit roundoff u (half the distance from 1 to the next number).
# float64 and float32: sums of up to a thousand products in another order, 90 u and 50 u.
# Half precision: one rounding of the result and, on the path through a vendor's product, one of
# the columns or their gradients, 2 u; everything else is float32.
LIMITS = {"float64": 1e-14, "float32": 3e-6, "float16": 1e-3, "bfloat16": 8e-3}
# Where terms cancel no such limit holds: of 1.000 - 0.999 one digit is left. A tensor over its
# limit still passes if it is off by no more than this many times what rounding the arguments
# once more does to the definition itself (`sensitivity`): the operator rounds sums too. About one
# case in a thousand needs it.
ROUNDINGS = 4


# ---------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One convolution, with the gradient that its result receives."""

    number: int
    category: str
    dtype: str
    geometry: Geometry
    tensors: Tensors
    grad_output: Tensor

    @property
    def position_error(self) -> float:
        """The most that a position on the map is off, in pixels: half a unit in float32's last place."""
        length = max(self.geometry.height, self.geometry.width)
        return 0.0 if self.dtype == "float64" else length * 2.0**-24

    def limit(self, name: str) -> float:
        """The error of the output, or of a gradient, that rounding usually explains.

        A shift of the positions changes values by their slope, which is about as large as they are.
        """
        dtypes = {self.dtype, str(self.tensor(name).dtype).removeprefix("torch.")}
        return max(LIMITS[dtype] for dtype in dtypes) + self.position_error

    def tensor(self, name: str) -> Tensor:
        """The argument of that name, or for the output its gradient."""
        return self.grad_output if name == "output" else getattr(self.tensors, name)


class Dice:
    """Random choices of one case."""

    def __init__(self, seed: int, number: int):
        self.numbers = np.random.default_rng([seed, number])

    def pick(self, *choices):
        """One of the choices."""
        return choices[int(self.numbers.integers(len(choices)))]

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.numbers.random() < probability

    def normal(self, *shape: int) -> Tensor:
        """Normal numbers, float64."""
        return torch.from_numpy(self.numbers.standard_normal(shape))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform numbers, float64."""
        return torch.from_numpy(self.numbers.uniform(low, high, shape))

    def choose(self, choices: Sequence[float], *shape: int) -> Tensor:
        """For each element one of the choices, float64."""
        return torch.from_numpy(self.numbers.choice(np.array(choices, dtype=np.float64), shape))

    def mixed(self, first: Tensor, second: Tensor, probability: float) -> Tensor:
        """Elements of `second` with a probability, and otherwise of `first`."""
        return torch.where(self.uniform(0, 1, *first.shape) < probability, second, first)


def draw_case(seed: int, number: int) -> Case:
    category = CATEGORIES[number % len(CATEGORIES)]
    name = list(DTYPES)[number // len(CATEGORIES) % len(DTYPES)]
    dtype = DTYPES[name]
    dice = Dice(seed, number)
    geometry = draw_geometry(dice, category)
    g, fields = geometry, geometry.offset_groups * geometry.kernel[0] * geometry.kernel[1]

    offset_dtype, mask_dtype = draw_field_dtypes(dice, category, dtype)
    offset = draw_offset(dice, category, geometry, exact_positions=dtype == torch.float64)
    mask = dice.mixed(dice.uniform(0, 2, g.batch, fields, *g.out_size), torch.zeros(()), 0.05)
    # Powers of two change no rounding, unless a dtype is left where another is meant.
    scale = dice.pick(2.0**-4, 1.0, 2.0**4) if category == "dtypes" else 1.0
    tensors = Tensors(
        input=(dice.normal(g.batch, g.channels, g.height, g.width) * scale).to(dtype),
        offset=offset.to(offset_dtype),
        weight=(dice.normal(g.out_channels, g.channels // g.groups, *g.kernel) / scale).to(dtype),
        bias=dice.normal(g.out_channels).to(dtype) if g.biased else None,
        mask=mask.to(mask_dtype) if g.masked else None,
    )
    grad_output = dice.normal(g.batch, g.out_channels, *g.out_size).to(dtype)
    tensors = tensors.map(lambda tensor: draw_layout(dice, category, tensor))
    return Case(number, category, name, geometry, tensors, draw_layout(dice, category, grad_output))


def draw_geometry(dice: Dice, category: str) -> Geometry:
    while True:
        geometry = any_geometry(dice, category)
        g, taps = geometry, geometry.kernel[0] * geometry.kernel[1]
        # Of a single number all terms may cancel; of four at a time they hardly do.
        tensors = [
            g.batch * g.channels * g.height * g.width,
            g.out_channels * g.channels // g.groups * taps,
            g.batch * g.offset_groups * taps * math.prod(g.out_size),
            g.batch * g.out_channels * math.prod(g.out_size),
            g.out_channels if g.biased else 4,
        ]
        reads = g.batch * g.channels * taps * math.prod(g.out_size)
        if min(tensors) >= 4 and g.offset_groups * taps <= 30 and reads <= 150_000:
            return geometry


def any_geometry(dice: Dice, category: str) -> Geometry:
    groups, offset_groups, channels = draw_groups(dice, category)
    height, width = draw_map(dice, category)
    kernel, dilation = draw_kernel(dice, category)
    padding = [dice.pick(0, 1, 2), dice.pick(0, 1, 3)]
    for i, size in enumerate((height, width)):
        span = dilation[i] * (kernel[i] - 1) + 1
        while size + 2 * padding[i] < span:  # until the kernel just fits, or far beyond
            padding[i] += dice.pick(1, span)
    # 70 output channels are more than a tile of the operator's product, and 260 more than a block
    # of it, which the output pixels often pass too (112) and the columns sometimes (256).
    out_channels = dice.pick(1, 1, 3, 8, 20, 70) if groups > 1 or dice.chance(0.95) else 260
    return Geometry(
        batch=dice.pick(1, 2, 5, 9) if category == "tiny maps" else dice.pick(1, 2, 3),
        channels=channels,
        height=height,
        width=width,
        out_channels=groups * out_channels,
        kernel=kernel,
        stride=draw_stride(dice, category, height, width),
        padding=tuple(padding),
        dilation=dilation,
        groups=groups,
        offset_groups=offset_groups,
        masked=dice.chance(0.6),
        biased=dice.chance(0.6),
    )


def draw_groups(dice: Dice, category: str) -> tuple[int, int, int]:
    """Return groups, offset groups and channels; channels of either kind of group may interleave."""
    groups = dice.pick(2, 3, 4, 5, 8, 12) if category == "groups" else dice.pick(1, 1, 2, 3)
    offset_groups = dice.pick(2, 3, 4, 6, 8, 12) if category == "offset groups" else dice.pick(1, 1, 2, 4)
    channels = math.lcm(groups, offset_groups) * dice.pick(1, 1, 2, 5, 17)
    if category == "groups" and dice.chance(0.3):
        groups = channels  # depthwise
    if category == "offset groups" and dice.chance(0.3):
        offset_groups = channels
    return groups, offset_groups, channels


def draw_map(dice: Dice, category: str) -> Pair:
    if category == "tiny maps":
        return dice.pick(1, 1, 2, 3), dice.pick(1, 1, 2, 3)
    if category == "wide maps":
        size = dice.pick(1, 2, 3), dice.pick(257, 600, 1024, 2050, 4096)
        return size if dice.chance(0.75) else size[::-1]
    if category == "non-square maps":
        size = dice.pick(1, 2, 3, 5), dice.pick(12, 17, 33, 64)
        return size if dice.chance(0.5) else size[::-1]
    return dice.pick(4, 5, 7, 9, 12), dice.pick(4, 5, 8, 11, 13)


def draw_kernel(dice: Dice, category: str) -> tuple[Pair, Pair]:
    """Return kernel and dilation."""
    kernel = dice.pick((1, 1), (2, 2), (3, 3), (3, 3), (3, 3), (3, 2), (1, 3), (4, 1))
    dilation = dice.pick(1, 1, 2), dice.pick(1, 1, 3)
    if category == "non-square kernels":
        kernel = dice.pick(
            (1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2), (5, 1), (1, 5), (7, 2), (2, 7), (5, 3), (1, 9)
        )
    if category == "dilations":
        kernel = dice.pick((2, 2), (3, 3), (3, 3), (3, 2), (2, 3))
        dilation = dice.pick((1, 2), (2, 1), (2, 2), (3, 3), (1, 4), (5, 1), (6, 6), (4, 7), (12, 2))
    return kernel, dilation


def draw_stride(dice: Dice, category: str, height: int, width: int) -> Pair:
    if category == "strides":
        return dice.pick((1, 2), (2, 1), (2, 2), (3, 1), (1, 4), (3, 3), (5, 2), (2, 7), (16, 1), (9, 16))
    if category == "wide maps":
        stride = dice.pick(1, 2, 5), dice.pick(1, 3, 8)
        return stride if width > height else stride[::-1]
    return dice.pick(1, 1, 2, 3), dice.pick(1, 1, 2, 3)


def draw_field_dtypes(dice: Dice, category: str, dtype: torch.dtype) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtypes of offset and mask."""
    if dtype == torch.float64:
        return dtype, dtype
    if category == "dtypes":
        return tuple(dice.pick(torch.float32, torch.float16, torch.bfloat16) for _ in range(2))
    return tuple([dice.pick(torch.float32, dtype)] * 2)


# ---------------------------------------------------------------- offsets


def draw_offset(dice: Dice, category: str, geometry: Geometry, exact_positions: bool) -> Tensor:
    """Draw (B, 2*G*K, Ho, Wo) displacements, in float64."""
    base = base_positions(geometry)  # (2*G*K, Ho, Wo)
    shape = (geometry.batch, *base.shape)
    margin = 0.0 if exact_positions else 1 / 128
    fraction = dice.uniform(margin, 1 - margin, *shape)
    ordinary = (dice.normal(*shape) * dice.pick(0.5, 2, 6)).floor() + fraction
    if category == "offsets near":
        return dice.choose([-1, 0], *shape) + fraction
    if category == "offsets far":
        distance = torch.exp(dice.uniform(math.log(10), math.log(dice.pick(100, 1e4, 1e6)), *shape)).floor()
        far = distance * dice.choose([-1, 1], *shape) + fraction
        return dice.mixed(ordinary, far, dice.pick(0.3, 0.7))
    if category == "offsets at whole pixels":
        # Up to 256 even bfloat16 has every whole number.
        return (dice.normal(*shape) * dice.pick(0.2, 1, 4, 20)).round().clamp(-256, 256)
    if category == "offsets at the border":
        return at_the_border(dice, geometry, fraction, exact_positions) - base
    if category == "offsets NaN, infinite":
        odd = dice.choose([math.nan, math.inf, -math.inf, 1e30, -1e30, 1e9, -70000.0], *shape)
        return dice.mixed(ordinary, odd, dice.pick(0.05, 0.2, 0.5))
    return ordinary


def base_positions(geometry: Geometry) -> Tensor:
    """Return where the taps read without offsets: (2*G*K, Ho, Wo), row and column in turn."""
    g, positions = geometry, []
    rows, cols = (torch.arange(n, dtype=torch.float64) * g.stride[i] for i, n in enumerate(g.out_size))
    for i in range(g.kernel[0]):
        for j in range(g.kernel[1]):
            row = (rows + i * g.dilation[0] - g.padding[0])[:, None].expand(g.out_size)
            col = (cols + j * g.dilation[1] - g.padding[1])[None, :].expand(g.out_size)
            positions += [row, col]
    return torch.stack(positions * g.offset_groups)


def at_the_border(dice: Dice, geometry: Geometry, fraction: Tensor, exact_positions: bool) -> Tensor:
    """Draw positions around the last pixels and around where reads end, exactly there too."""
    shape = fraction.shape
    size = torch.tensor([geometry.height, geometry.width], dtype=torch.float64)
    size = size.repeat(shape[1] // 2)[None, :, None, None].expand(shape)
    # Around -1, 0, H-1 and H, or anywhere on the map: else few reads would be inside both ways.
    border = torch.where(
        dice.uniform(0, 1, *shape) < 0.5, dice.choose([-1, 0], *shape), size - dice.choose([0, 1], *shape)
    )
    if exact_positions:  # and as close as 1e-12
        fraction = dice.mixed(fraction, 10 ** dice.uniform(-12, -1, *shape), 0.5)
        fraction = dice.mixed(fraction, 1 - fraction, 0.5)
    step = dice.choose([-1, 0], *shape) + fraction
    position = border + dice.mixed(step, torch.zeros(()), 0.3)
    anywhere = (dice.uniform(0, 1, *shape) * size).floor() + fraction
    return dice.mixed(position, anywhere, 0.4)


# ---------------------------------------------------------------- layouts


def draw_layout(dice: Dice, category: str, tensor: Tensor) -> Tensor:
    """The same numbers, or for an expanded tensor some of them repeated, elsewhere in memory."""
    if category != "layouts":
        chosen = dice.pick("contiguous", "channels last")
    else:
        chosen = dice.pick("contiguous", "channels last", "every other", "reversed", "within", "expanded", "rows last")
    if tensor.dim() != 4:
        return torch.stack([tensor, tensor], dim=-1)[..., 0] if chosen == "every other" else tensor
    if chosen == "channels last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if chosen == "every other":
        return torch.stack([tensor, tensor], dim=-1)[..., 0]
    if chosen == "reversed":  # batch innermost
        return tensor.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    if chosen == "within":  # part of something larger, beginning at an odd address
        larger = torch.full([size + 1 for size in tensor.shape], math.nan, dtype=tensor.dtype)
        larger[1:, 1:, 1:, 1:] = tensor
        return larger[1:, 1:, 1:, 1:]
    if chosen == "expanded":  # stride 0
        dim = dice.pick(0, 1, 2, 3)
        return tensor.narrow(dim, 0, 1).expand_as(tensor)
    if chosen == "rows last":
        return tensor.transpose(2, 3).contiguous().transpose(2, 3)
    return tensor.contiguous()


# ---------------------------------------------------------------- judging


def results(case: Case, operator: Operator, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Return the output and every gradient by name."""
    leaves = case.tensors.map(lambda t: t.to(device).detach().requires_grad_())
    output = leaves.call(operator, case.geometry)
    named = {name: tensor for name, tensor in vars(leaves).items() if tensor is not None}
    grads = torch.autograd.grad(output, list(named.values()), case.grad_output.to(device))
    return {"output": output.detach(), **dict(zip(named, grads, strict=True))}


def errors(case: Case, operator: Operator = deform_conv2d, device: str | torch.device = "cpu") -> dict[str, float]:
    """Return |got - expected| / |expected| of the output and of every gradient.

    Where the expected numbers are all zero, as when every read is outside, |got|.
    """
    got = results(case, operator, device)
    found = {}
    for name, expected in results(in_float64(case), reference.deform_conv2d).items():
        mine = got[name].cpu()
        assert mine.shape == expected.shape and mine.dtype == case.tensor(name).dtype, (case.number, name)
        found[name] = distance(mine, expected)
    return found


def distance(got: Tensor, expected: Tensor) -> float:
    """|got - expected| / |expected|, or |got| where all that is expected is zero."""
    if not torch.isfinite(got).all():
        return math.inf
    return relative_error(got, expected) if expected.any() else float(got.double().norm())


def in_float64(case: Case) -> Case:
    tensors = case.tensors.map(lambda t: t.double().contiguous())
    return replace(case, tensors=tensors, grad_output=case.grad_output.double())


def sensitivity(case: Case) -> dict[str, float]:
    """How far the definition's own results move when its arguments are rounded once more.

    Every number is multiplied by 1 + u or 1 - u for the unit roundoff u of the case's dtype (2 u
    in float64, where 1 + u is 1), and positions, except whole ones, move by their error up or
    down. The largest change of eight draws; where terms cancel, many times u.
    """
    generator = torch.Generator().manual_seed(case.number)
    unit = max(torch.finfo(DTYPES[case.dtype]).eps / 2, torch.finfo(torch.float64).eps)

    def signs(tensor: Tensor) -> Tensor:
        return 2 * torch.randint(2, tensor.shape, generator=generator) - 1

    def rounded(tensor: Tensor) -> Tensor:
        return tensor * (1 + unit * signs(tensor))

    exact = in_float64(case)
    expected = results(exact, reference.deform_conv2d)
    offset = exact.tensors.offset
    found = dict.fromkeys(expected, 0.0)
    for _ in range(8):
        moved = torch.where(offset == offset.round(), offset, offset + case.position_error * signs(offset))
        tensors = replace(exact.tensors.map(rounded), offset=moved)
        other = replace(exact, tensors=tensors, grad_output=rounded(exact.grad_output))
        for name, tensor in results(other, reference.deform_conv2d).items():
            found[name] = max(found[name], distance(tensor, expected[name]))
    return found


@dataclass
class Errors:
    """The errors of some cases, one each, and where the largest was."""

    every: list[float] = field(default_factory=list)
    worst: float = -1.0
    case: int = -1
    tensor: str = ""
    cancels: bool = False

    def add(self, error: float, case: int, tensor: str, cancels: bool) -> None:
        """Take in the error of one case."""
        self.every.append(error)
        if error > self.worst:
            self.worst, self.case, self.tensor, self.cancels = error, case, tensor, cancels

    @property
    def usual(self) -> float:
        """What nine cases in ten do not exceed."""
        return float(np.quantile(self.every, 0.9))

    def __str__(self) -> str:
        return f"{self.worst:.1e}{'*' if self.cancels else ''} #{self.case}"

    def as_json(self) -> dict:
        """Everything but the single errors."""
        return {
            "worst": self.worst,
            "case": self.case,
            "tensor": self.tensor,
            "cancels": self.cancels,
            "usual": self.usual,
        }


@dataclass
class Cell:
    """The cases of one category and dtype: their results, and the worst of each one's gradients."""

    forward: Errors = field(default_factory=Errors)
    gradient: Errors = field(default_factory=Errors)


@dataclass
class Report:
    """What a run has found so far."""

    seed: int
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)  # over the limit, and explained by cancellation

    def add(self, case: Case, found: dict[str, float]) -> None:
        """Take in the errors of a case."""
        over = [name for name, error in found.items() if not error <= case.limit(name)]
        moves = sensitivity(case) if over else {}
        cancels = {name for name in over if found[name] <= ROUNDINGS * moves[name]}
        for name in over:
            text = (
                f"seed {self.seed}, case {case.number} ({case.category}, {case.dtype}): {name} is off by "
                f"{found[name]:.1e}, limit {case.limit(name):.1e}; a rounding moves the definition by {moves[name]:.1e}"
            )
            (self.cancelled if name in cancels else self.failures).append(text)
        cell = self.cells.setdefault((case.category, case.dtype), Cell())
        worst = max(found.keys() - {"output"}, key=lambda name: found[name])
        cell.forward.add(found["output"], case.number, "output", "output" in cancels)
        cell.gradient.add(found[worst], case.number, worst, worst in cancels)

    def table(self) -> str:
        """Category by dtype: worst error of the output / of any gradient, each with its case."""
        rows = [["worst forward / gradient error", *DTYPES]]
        for category in CATEGORIES:
            cells = [self.cells.get((category, dtype)) for dtype in DTYPES]
            rows.append([category, *(f"{cell.forward} / {cell.gradient}" if cell else "" for cell in cells)])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)

    def as_json(self) -> dict:
        """Everything, for a file."""
        cells = []
        for (category, dtype), cell in self.cells.items():
            errors = {"forward": cell.forward.as_json(), "gradient": cell.gradient.as_json()}
            cells.append({"category": category, "dtype": dtype, "cases": len(cell.forward.every), **errors})
        verdict = {"failures": self.failures, "cancelled": self.cancelled}
        return {"seed": self.seed, "limits": LIMITS, "cells": cells, **verdict}


def run(
    seed: int,
    numbers: Iterable[int],
    operator: Operator = deform_conv2d,
    device: str | torch.device = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> Report:
    """Judge an operator on some cases of a seed."""
    report = Report(seed)
    for done, number in enumerate(numbers, start=1):
        case = draw_case(seed, number)
        report.add(case, errors(case, operator, device))
        progress(done)
    return report


# ---------------------------------------------------------------- script


def show_progress(count: int) -> Callable[[int], None]:
    """Say every 500 cases, on the standard error, how far a run is."""
    start = time.monotonic()

    def show(done: int) -> None:
        if done % 500 == 0 or done == count:
            seconds = time.monotonic() - start
            left = seconds / done * (count - done)
            print(f"fuzz: {done} of {count} cases, {seconds:.0f} s, {left:.0f} s left", file=sys.stderr, flush=True)

    return show


def describe(case: Case, found: dict[str, float]) -> str:
    """Everything one needs to know of a case, tensor by tensor."""
    moves = sensitivity(case)
    lines = [f"case {case.number}: {case.category}, {case.dtype}", str(case.geometry)]
    for name, error in found.items():
        tensor, limit = case.tensor(name), case.limit(name)
        verdict = f"off by {error:.1e}, limit {limit:.1e}; a rounding moves the definition by {moves[name]:.1e};"
        lines.append(f"  {name:7} {verdict} {tuple(tensor.shape)} {tensor.dtype} strides {tensor.stride()}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Random deformable convolutions against the float64 definition.")
    parser.add_argument("--count", type=int, default=10_000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="what the cases are drawn from, with their numbers")
    parser.add_argument("--only", type=int, metavar="N", help="run case N alone and show each tensor")
    parser.add_argument("--device", default="cpu", help="where the operator runs; the definition runs on the CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to a file too")
    options = parser.parse_args()

    torch.backends.cudnn.conv.fp32_precision = "ieee"  # or a GPU rounds float32 to TF32

    if options.only is not None:
        case = draw_case(options.seed, options.only)
        report = Report(options.seed)
        found = errors(case, device=options.device)
        report.add(case, found)
        print(describe(case, found))
        return int(bool(report.failures))

    start = time.monotonic()
    report = run(options.seed, range(options.count), device=options.device, progress=show_progress(options.count))
    seconds = time.monotonic() - start
    print(report.table())
    for text in report.failures:
        print("WRONG:", text)
    for text in report.cancelled:
        print("* terms cancel:", text)
    print(
        f"seed {options.seed}: {options.count} cases in {seconds:.0f} s; {len(report.failures)} results wrong, "
        f"{len(report.cancelled)} over the limit because terms cancel"
    )
    if options.json is not None:
        settings = {"count": options.count, "device": options.device, "seconds": round(seconds, 1)}
        settings |= {"torch": torch.__version__, "instruction_set": torch.ops.segdcn.cpu_capability()}
        options.json.write_text(json.dumps({**settings, **report.as_json()}, indent=1) + "\n")
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
