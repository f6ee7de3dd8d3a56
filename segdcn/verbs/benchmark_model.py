"""`segdcn benchmark model`: what a trained network costs, beside its plain twin and its exports."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import segdcn.ops.flops  # noqa: F401 (deformable convolutions are counted)
from segdcn.data.collage import draw
from segdcn.description import Description
from segdcn.device import chosen_device, move, out_of_memory
from segdcn.errors import MissingFileError, UserValueError
from segdcn.export import FORMATS, load, read_trained, write
from segdcn.export.formats import predictor
from segdcn.export.trained import Trained, build
from segdcn.predictor import Predictor
from segdcn.refusals import near
from segdcn.timing import Timing, alternate, machine, peak_memory
from segdcn.verbs.report_file import check_report_file, write_report

PLAIN = "plain"
SIZE = [512, 1024]
ON_GPU = ("aoti", "safetensors")  # formats that can compute there
PERCENTILES = (50, 90, 99)
# Of the largest logit: what is compared in time has to compute the same.
DIFFERENCE = 1e-3


def benchmark_model(
    model: str,
    size: list[int] | None = None,
    batch: int = 1,
    threads: int | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    exports: list[str] | None = None,
    rounds: int = 30,
    trust: bool = False,
    json: str | None = None,
) -> None:
    """Time a network, its plain twin (the same settings without deformable layers) and its exports.

    All see the same drawn picture and take turns in one run, from normalised images to logits. The table
    shows percentiles of the time of a batch (of few rounds, p99 is nearly the slowest), images a second, the
    time as a multiple of MODEL's, parameters, FLOPs and memory.

    FLOPs: a multiplication and an addition are two. Convolutions and matrix products are counted, and in
    deformable ones also the reading between pixels, 7 for each value read (segdcn/ops/flops.py). Exports
    compute what the network does. Memory is what the first batch of that size takes beyond the weights, with
    what the runtime keeps for the next.

    Example:
        segdcn benchmark model best.ckpt --size 512 1024 --threads 2 --exports onnx program

    Args:
        model: A checkpoint, or what segdcn export wrote.
        size: Height and width, multiples of what the network takes; null is 512 1024.
        batch: Images at once.
        threads: Threads of the CPU, for torch and onnxruntime; null is torch's choice.
        device: cpu or cuda.
        exports: Formats of segdcn export, which are made for the occasion, and files made earlier.
        rounds: How often each is timed; at least 2.
        trust: Open .pt2 files that were made earlier; they can hold code.
        json: Also write the figures, in seconds and bytes, to this file.

    Raises:
        MissingFileError: The model or an export is not there.
        UserValueError: A number, a size, a device or a format does not fit.
    """
    if rounds < 2 or batch < 1 or (threads is not None and threads < 1):
        raise UserValueError(
            f"rounds is {rounds}, batch {batch} and threads {threads}; "
            "at least 2 rounds, 1 image and 1 thread are needed"
        )
    if json is not None:
        check_report_file(json)
    target = chosen_device(device)
    wanted = _wanted(exports or [], target)
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console(highlight=False)
    path = Path(model)
    is_trained = not (path.is_file() and path.suffix in (".onnx", ".pt2"))
    trained = read_trained(path) if is_trained else None
    if trained is None and (made := [name for name in wanted if name in FORMATS]):
        raise UserValueError(f"{', '.join(made)} can be made of a checkpoint or of safetensors only, not of {model}")

    first = predictor(trained) if trained is not None else load(path, trust)
    description = first.description
    height, width = _size(size or SIZE, description)
    own = path.name if path.name not in (PLAIN, *FORMATS) else f"{path.name} (MODEL)"
    candidates = {own: first}
    networks = {own: trained.network if trained is not None else build(description.config, model).network.eval()}
    if description.config.get("deform_layers"):
        networks[PLAIN] = _plain(description.config, networks[own], model)
        candidates[PLAIN] = predictor(Trained(networks[PLAIN], description))
    with tempfile.TemporaryDirectory(prefix="segdcn-") as folder:
        for name in wanted:
            with console.status(f"{'writing' if name in FORMATS else 'opening'} {name}"):
                if name in FORMATS:
                    assert trained is not None
                    candidates[name] = _made(trained, name, Path(folder), target)
                else:
                    candidates[name if Path(name).name in candidates else Path(name).name] = load(name, trust)
        with console.status("counting operations"):
            shape = (batch, 3, height, width)
            costs = {name: _cost(network, shape) for name, network in networks.items()}
        for name, candidate in candidates.items():
            _size([height, width], candidate.description, name)
            move(candidate, target, name)
        image = _image(description, batch, height, width).to(target)
        timings, memory, outputs = _measure(candidates, image, rounds, target, console)

    differences = {name: _difference(output, outputs[own]) for name, output in outputs.items() if name != PLAIN}
    rows = [
        _row(name, timings[name], batch, timings[own], costs.get(name), memory[name], differences.get(name))
        for name in candidates
    ]
    where = (
        f"{machine(target)}; torch {torch.__version__}; {batch}x{height}x{width} (batch, height, width); "
        f"{rounds} alternating rounds"
    )
    console.print(_table(rows, own), where)
    for name, difference in differences.items():
        if not difference <= DIFFERENCE:
            console.print(f"{name} computes something else: logits differ by {difference:.1%} of the largest")
    if json is not None:
        write_report(json, {"machine": where, "model": model, "rows": rows})


def _wanted(exports: Sequence[str], device: torch.device) -> list[str]:
    """Read the exports to time, which may be given with commas: names of formats, and files."""
    names = [name for given in exports for name in ([given] if Path(given).exists() else given.split(",")) if name]
    for name in names:
        if name not in FORMATS and not Path(name).exists():
            raise MissingFileError(
                f"exports has {name!r}, which is no file{near(name, FORMATS)}; formats: {', '.join(FORMATS)}"
            )
        if device.type == "cuda" and name in FORMATS and name not in ON_GPU:
            raise UserValueError(f"device is cuda, but {name} computes on the CPU; there {' and '.join(ON_GPU)} can")
    return list(dict.fromkeys(names))


def _size(size: Sequence[int], description: Description, name: str = "the network") -> tuple[int, int]:
    sides = [*size, *size] if len(size) == 1 else [*size]
    divisor, least = description.size_divisor, max(1, description.size_minimum)
    if len(sides) != 2 or min(sides) < least or any(side % divisor for side in sides):
        raise UserValueError(
            f"size is {' '.join(map(str, size))}; expected height and width, multiples of {divisor} of at least "
            f"{least}, which {name} takes"
        )
    return sides[0], sides[1]


def _plain(config: Mapping[str, Any], network: nn.Module, path: object) -> nn.Module:
    """Build a network with plain convolutions for the deformable ones, and otherwise the same weights."""
    plain = build({**config, "deform_layers": 0}, path).network.eval()
    wanted = plain.state_dict().keys()
    plain.load_state_dict({name: weight for name, weight in network.state_dict().items() if name in wanted})
    return plain


def _made(trained: Trained, format: str, folder: Path, device: torch.device) -> Predictor:
    """Export the network into a folder, and open the file."""
    path = folder / f"model-{format}{FORMATS[format].suffix}"
    description = replace(trained.description, device=device.type if format == "aoti" else "cpu")
    write(Trained(trained.network, description), format, path)
    return load(path, trust=True)


def _image(description: Description, batch: int, height: int, width: int) -> Tensor:
    """Draw a picture, and normalise it: what offsets do depends on what there is to see."""
    picture = draw(np.random.default_rng(0), size=max(height, width), deformation=0.5).image[:height, :width]
    normalised = Predictor(lambda image: image, description).normalised(picture)
    return normalised.expand(batch, -1, -1, -1).contiguous()  # (B, 3, H, W)


def _cost(network: nn.Module, shape: Sequence[int]) -> tuple[int, int]:
    """Count the parameters that prediction uses, and the FLOPs of a batch."""
    parameters = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("auxiliary_head."))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(*shape).contiguous(memory_format=torch.channels_last))
    return parameters, counter.get_total_flops()


def _measure(
    candidates: Mapping[str, Predictor], image: Tensor, rounds: int, device: torch.device, console: Console
) -> tuple[dict[str, Timing], dict[str, int | None], dict[str, Tensor]]:
    """Give of each candidate its times, the memory of its first batch, and what it computed."""
    outputs: dict[str, Tensor] = {}
    memory: dict[str, int | None] = {}

    def first_run(name: str) -> Tensor:
        outputs[name] = candidates[name].run(image)
        return outputs[name]

    quiet = not console.is_terminal
    with Progress(console=console, transient=True, disable=quiet, refresh_per_second=1) as bar, torch.inference_mode():
        task = bar.add_task("timing", total=(2 + rounds) * len(candidates))

        def timed(name: str) -> Callable[[], object]:
            def call() -> None:
                candidates[name].run(image)
                bar.advance(task)

            return call

        name = ""
        try:
            for name, candidate in candidates.items():
                least = max(candidate.description.size_minimum, 4 * candidate.description.size_divisor)
                candidate.run(image[:1, :, :least, :least])  # what is loaded and set up once does not count
                memory[name] = peak_memory(lambda name=name: first_run(name), device)  # type: ignore[misc]
                outputs[name] = outputs[name].cpu()
                bar.advance(task)
            timings = alternate({name: timed(name) for name in candidates}, rounds, device)
        except Exception as error:
            if not out_of_memory(error):
                raise
            raise UserValueError(f"a batch of {tuple(image.shape)} does not fit into the memory of {device}") from error
    return timings, memory, outputs


def _difference(output: Tensor, expected: Tensor) -> float:
    if output.shape != expected.shape:
        return float("inf")
    return float((output - expected).abs().max() / expected.abs().max())


def _row(
    name: str,
    timing: Timing,
    batch: int,
    first: Timing,
    cost: tuple[int, int] | None,
    memory: int | None,
    difference: float | None,
) -> dict[str, Any]:
    return {
        "name": name,
        "seconds": {f"p{percent}": timing.percentile(percent) for percent in PERCENTILES},
        "spread": round(timing.spread, 3),
        "images_per_second": batch / timing.median,
        "factor": timing.median / first.median,
        "parameters": cost[0] if cost else None,
        "flops": cost[1] if cost else None,
        "memory": memory,
        "difference": difference,
    }


def _table(rows: Sequence[Mapping[str, Any]], model: str) -> Table:
    table = Table(
        title="from normalised images to logits",
        caption=f"factor: time as a multiple of that of {model}; MiB: memory beyond the weights",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", overflow="fold")
    for heading in ("p50 ms", "p90", "p99", "images/s", "factor", "M param.", "GFLOPs", "MiB"):
        table.add_column(heading, no_wrap=True, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            *(f"{1000 * row['seconds'][f'p{percent}']:.1f}" for percent in PERCENTILES),
            f"{row['images_per_second']:.2f}",
            f"[bold]{row['factor']:.2f}[/bold]",
            "" if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f}",
            "" if row["flops"] is None else f"{row['flops'] / 1e9:.1f}",
            "" if row["memory"] is None else f"{row['memory'] / 2**20:.0f}",
        )
    return table
