"""`segdcn export`: a trained network as a file that others can run, proven to compute the same."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segdcn.data.base import SegmentationData
from segdcn.data.collage import draw
from segdcn.data.describe import build_data, load_data
from segdcn.data.files import read_picture
from segdcn.errors import UserError, UserValueError
from segdcn.export import FORMATS, load, read_trained, write
from segdcn.export.formats import predictor
from segdcn.export.half import rounded
from segdcn.export.output import check_output, named_after, publish, staged
from segdcn.export.trained import Trained
from segdcn.export.verify import TOLERANCE, Comparison, compare, other_sizes, padded
from segdcn.metrics import ConfusionMatrix
from segdcn.predictor import Predictor
from segdcn.verbs.report_file import check_report_file, write_report
from segdcn.yaml_files import read_yaml

FormatName = Literal["onnx", "onnx-portable", "program", "program-portable", "aoti", "safetensors"]


def export(
    checkpoint: str,
    format: FormatName = "onnx",
    output: str | None = None,
    half: Literal["float16", "bfloat16"] | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    image: str | None = None,
    data: str | None = None,
    root: str | None = None,
    overwrite: bool = False,
    json: str | None = None,
) -> int:
    """Write a trained network as a file that others can run, and prove that it computes the same.

    Formats: onnx (deformable layers are the standard DeformConv) and onnx-portable (GridSample and
    MatMul, for runtimes without it); program (torch.export, with segdcn's operators) and
    program-portable (torch alone); aoti (compiled for this kind of machine; needs a C++ compiler);
    safetensors (a folder of weights and settings). All take any batch, and any height and width
    that are multiples of the output stride.

    The file is run in its own runtime against the network: on a picture, and on random images of two
    other sizes. Where a logit differs by more than 0.0001 of the largest (or 10 times what rounding
    to float32 does to the network itself, if that is more), no file is left and the exit code is 1.
    segdcn.load(FILE).predict(PICTURE) uses it.

    Example:
        segdcn export runs/street/2026-11-21_10-00-00/checkpoints/best.ckpt --format onnx --output street.onnx

    Args:
        checkpoint: What fit saved, or a folder of safetensors.
        format: Of the file.
        output: The file, or the folder of safetensors; null names it after the checkpoint, beside it.
        half: Store kernels in this dtype, in half the space; what computes stays float32. The change that
            rounding makes is told: of the mIoU where data is given, else of the picture's labels.
        device: What aoti compiles for.
        image: Picture to compare on; null takes one of the validation set, or draws one.
        data: YAML of the data set, for the picture and the mIoU.
        root: Folder of the data set, in place of the YAML's.
        overwrite: Replace an earlier export.
        json: Also write the numbers to this file.

    Returns:
        0, or 1 where the file does not compute the same.

    Raises:
        UserError: Something given does not fit, or a package is missing.
    """
    source, kind = Path(checkpoint), FORMATS[format]
    if json is not None:
        check_report_file(json)
    if device != "cpu" and format != "aoti":
        raise UserValueError(f"device is {device}, but {format} is for any; leave it out")
    trained = read_trained(source)  # before the output is looked at: who mistypes it reads about it
    place = Path(output) if output is not None else named_after(source, kind.ending)
    check_output(place, kind.suffix, overwrite, source)
    described = _data(data, root)
    if described is not None and list(described.class_names) != trained.description.class_names:
        raise UserValueError(
            f"{data} has the classes {', '.join(described.class_names)}, but the network was trained for "
            f"{', '.join(trained.description.class_names)}"
        )
    pixels, what = _picture(image, described, source)

    console = Console()
    description = replace(trained.description, weights_dtype=half or "float32", device=device)
    stored = Trained(rounded(trained.network, getattr(torch, half)) if half else trained.network, description)
    reference = predictor(stored)
    with staged(place) as written:
        with console.status(f"writing {format}"):
            write(stored, format, written)
        with console.status(f"comparing in {kind.runtime}"):
            opened = load(written, trust=True)
            picture = padded(opened.normalised(pixels), description.size_divisor)
            inputs = [(what, picture), *other_sizes(description.size_divisor)]
            compared = compare(stored.network, opened.run, inputs)
        same = all(one.agrees for one in compared)
        if same:
            publish(written, place, overwrite)
    result: dict[str, Any] = {
        "checkpoint": str(source),
        "format": format,
        "output": str(place) if same else None,
        "weights_sha256": description.weights_sha256,
        "runtime": kind.runtime,
        "tolerance": TOLERANCE,
        "comparisons": [asdict(one) for one in compared],
    }
    _print(console, compared, kind.runtime)
    if half:
        result["half"] = _change(console, half, predictor(trained), reference, described, pixels)
    if json is not None:
        write_report(json, result)
    if same:
        console.print(f"{place}  computes what the network computes", soft_wrap=True)
        return 0
    console.print(f"{place} was not written: the file does not compute what the network computes", soft_wrap=True)
    return 1


def _data(data: str | None, root: str | None) -> SegmentationData | None:
    if data is None:
        if root is not None:
            raise UserValueError("root is the folder of a data set: say by data which YAML describes it")
        return None
    return load_data(data, root=root)


def _picture(image: str | None, data: SegmentationData | None, source: Path) -> tuple[np.ndarray, str]:
    """Find a real picture (H, W, 3), and say what it is: the one given, the data's, the run's, or a drawn one."""
    if image is not None:
        return read_picture(Path(image)), Path(image).name
    if data is None:
        data = _data_of_run(source)
    if data is not None:
        sample = data.samples(data.val_split)[0]
        return read_picture(sample.image), sample.image.name
    return draw(np.random.default_rng(0), size=160, deformation=0.5).image, "drawn by segdcn"


def _data_of_run(source: Path) -> SegmentationData | None:
    """Find the data that a checkpoint in a run folder was trained with, if it is still there."""
    config = source.absolute().parent.parent / "config.yaml"
    try:
        described = read_yaml(config)["data"]
        # No other class: a run folder may come from elsewhere, and building a class runs its code.
        if not described["class_path"].startswith("segdcn.data."):
            return None
        data = build_data(described, config, {})
        data.samples(data.val_split)
        return data
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UserError):
        return None


def _change(
    console: Console,
    half: str,
    exact: Predictor,
    rounded: Predictor,
    data: SegmentationData | None,
    pixels: np.ndarray,
) -> dict[str, float]:
    """Measure and print what rounding the weights changes."""
    if data is None:
        changed = float((exact.predict(pixels) != rounded.predict(pixels)).mean())
        console.print(
            f"weights in {half}: {changed:.4%} of the picture's labels change (with --data: the mIoU)", soft_wrap=True
        )
        return {"labels_changed": changed}
    before, after = _mean_ious(data, [exact, rounded])
    console.print(f"weights in {half}: mIoU {before:.4f} -> {after:.4f} ({after - before:+.4f})")
    return {"mIoU_float32": before, f"mIoU_{half}": after}


def _mean_ious(data: SegmentationData, predictors: list[Predictor]) -> list[float]:
    dataset = data.eval_dataset(data.val_split)
    matrices = [ConfusionMatrix(data.num_classes) for _ in predictors]
    for index in track(range(len(dataset)), description="measuring mIoU", transient=True):
        pixels, labels = dataset.read(index)
        for one, matrix in zip(predictors, matrices, strict=True):
            matrix.update(one.logits(pixels)[0].argmax(0).cpu(), torch.from_numpy(labels.astype(np.int64)))
    return [float(matrix.mean_iou()) for matrix in matrices]


def _print(console: Console, compared: list[Comparison], runtime: str) -> None:
    table = Table(title=f"logits: {runtime} against the network", box=SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    for name in ("size", "difference", "allowed", "labels changed", ""):
        table.add_column(name, justify="right")
    for one in compared:
        batch, _, height, width = one.shape
        passed = "same" if one.agrees else "[bold]differs[/]"
        numbers = (f"{one.difference:.1e}", f"{one.allowed:.1e}", f"{one.changed:.3%}", passed)
        table.add_row(one.input, f"{batch}x{height}x{width}", *numbers)
    console.print(table)
