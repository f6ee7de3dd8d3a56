"""`segdcn benchmark train`: what deformable layers cost in a training step of a whole network."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table
from torch import Tensor, nn

from segdcn.device import chosen_device, out_of_memory
from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.task import SegmentationTask
from segdcn.timing import Timing, alternate, machine, peak_memory
from segdcn.verbs.report_file import check_report_file, write_report

PLAIN, OURS, THEIRS = "plain", "deformable", "torchvision's operator"
CLASSES = 19  # Cityscapes'
MULTIPLE = 16  # of the size; the output stride


def benchmark_train(
    architecture: str = "deeplabv3plus",
    encoder: str = "resnet50",
    size: int = 256,
    batch: int = 2,
    deform_layers: int = 3,
    torchvision: bool = True,
    threads: int | None = None,
    device: str = "cpu",
    rounds: int = 9,
    json: str | None = None,
) -> None:
    """Time training steps of one network: plain, deformable, and deformable by torchvision's operator.

    A step is forward, cross entropy, backward and SGD, on random pixels, which need not be read. The
    networks have the same weights, and offsets of about two pixels, other ones at each pixel. They take turns
    in one run; the table shows medians, as a multiple of the plain network's too, and the memory that a
    step needs beyond weights, gradients and the optimizer's state. Networks are those of fit's
    settings, in channels-last and float32; torchvision's operator is left out where torchvision is
    not installed.

    Example:
        segdcn benchmark train --encoder resnet50 --size 256 --batch 2 --threads 2

    Args:
        architecture: deeplab, deeplabv3 or deeplabv3plus.
        encoder: As model.encoder.
        size: Height and width of the images.
        batch: Images in a step.
        deform_layers: How many of the last 3x3 convolutions are deformable.
        torchvision: Time torchvision's operator too; on a CPU it takes several times as long.
        threads: Threads of the CPU; null is torch's choice.
        device: cpu or cuda.
        rounds: How often each is timed; at least 2.
        json: Also write the figures, in seconds and bytes, to this file.

    Raises:
        UserValueError: A setting, a device or a number does not fit, or a file cannot be written.
    """
    if rounds < 2 or batch < 1 or size < 1 or deform_layers < 1 or (threads is not None and threads < 1):
        raise UserValueError(
            f"rounds is {rounds}, batch {batch}, size {size}, deform_layers {deform_layers} and threads {threads}; "
            "at least 2 rounds, and 1 of the others, are needed"
        )
    if batch == 1 and architecture != "deeplab":
        raise UserValueError(
            f"batch is 1, but {architecture} normalises a single value per image in training; give --batch 2 or more, "
            "or --architecture deeplab"
        )
    if size % MULTIPLE:
        raise UserValueError(f"size is {size}; give --size a multiple of {MULTIPLE}, which the networks divide it by")
    if json is not None:
        check_report_file(json)
    target = chosen_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console()
    candidates = [PLAIN, OURS]
    if torchvision and find_spec("torchvision") is None:
        console.print("segdcn: torchvision is not installed; its operator is left out")
    elif torchvision:
        candidates.append(THEIRS)
    settings = {"architecture": architecture, "encoder": encoder}
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(batch, 3, size, size, generator=generator).to(target)
    labels = torch.randint(CLASSES, (batch, size, size), generator=generator).to(target)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("training steps", total=(rounds + 2) * len(candidates))
        try:
            steps = {
                name: _step(_network(name, settings, deform_layers).to(target), image, labels) for name in candidates
            }
            timings = alternate(
                {name: partial(_shown, step, bar, task) for name, step in steps.items()}, rounds, target
            )
            memory = {name: peak_memory(partial(_shown, step, bar, task), target) for name, step in steps.items()}
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise UserValueError(
                f"{batch} images of {size}x{size} do not fit into the memory of {device}; try fewer or smaller ones"
            ) from error
    rows = [_row(name, timings, memory[name]) for name in candidates]
    what = f"{architecture}, {encoder}, {batch} x {size}x{size}, {deform_layers} deformable layers"
    where = f"{machine(target)}; torch {torch.__version__}; medians of {rounds} alternating rounds"
    console.print(_table(what, rows), where)
    if json is not None:
        write_report(json, {"network": what, "machine": where, "rows": rows})


def _network(name: str, settings: dict[str, Any], deform_layers: int) -> SegmentationTask:
    """Build a network as `fit` does, with offsets of about 2 pixels."""
    torch.manual_seed(0)
    # A rate at which noise does not throw the weights about: torchvision crashes at offsets that are NaN.
    task = SegmentationTask(CLASSES, **settings, deform_layers=0 if name == PLAIN else deform_layers, lr=1e-4)
    for module in task.network.modules():
        if isinstance(module, DeformableConv2d):
            # Others at each pixel: half of the inputs are 0, the others about 1.
            nn.init.normal_(module.offset_conv.weight, std=2 * (2 / module.offset_conv.weight[0].numel()) ** 0.5)
            if name == THEIRS:
                module.__class__ = _ByTorchvision
    return task.train()


class _ByTorchvision(DeformableConv2d):
    """The same layer on torchvision's operator."""

    def forward(self, input: Tensor) -> Tensor:
        from torchvision.ops import deform_conv2d

        offset, mask = self.predict_offsets(input)
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)


def _step(task: SegmentationTask, image: Tensor, labels: Tensor) -> Callable[[], Sequence[Tensor]]:
    """Prepare a training step, which returns nothing that takes memory."""
    optimizer = task.configure_optimizers()

    def step() -> Sequence[Tensor]:
        loss = task.loss(task(image), labels)
        optimizer.zero_grad(set_to_none=False)  # gradients stay where they are, and count as held
        loss.backward()
        optimizer.step()
        return ()

    return step


def _shown(step: Callable[[], Sequence[Tensor]], bar: Progress, task: TaskID) -> Sequence[Tensor]:
    result = step()
    bar.advance(task)
    return result


def _row(name: str, timings: dict[str, Timing], memory: int | None) -> dict[str, Any]:
    return {
        "network": name,
        "seconds": timings[name].median,
        "factor": timings[name].median / timings[PLAIN].median,
        "spread": round(timings[name].spread, 3),
        "memory": memory,
    }


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(
        title=title,
        caption="factor: seconds as a multiple of the plain network's\n"
        "MiB: memory beyond weights, gradients and optimizer",
        box=SIMPLE_HEAD,
    )
    table.add_column("training step", no_wrap=True)
    for heading in ("ms", "factor", "spread", "MiB"):
        table.add_column(heading, no_wrap=True, justify="right")
    for row in rows:
        table.add_row(
            row["network"],
            f"{1000 * row['seconds']:.1f}",
            f"[bold]{row['factor']:.2f}[/bold]",
            f"{row['spread']:.0%}",
            "" if row["memory"] is None else f"{row['memory'] / 2**20:.0f}",
        )
    return table
