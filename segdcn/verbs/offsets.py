"""`segdcn offsets`: where the deformable layers of a trained network look, on any image."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from segdcn.data.files import read_picture
from segdcn.data.loading import PadAndStack
from segdcn.data.transforms import EvalTransform
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.export.trained import read_task
from segdcn.offsets import SamplingField, effective_dilation, health, output_pixel, record, regions
from segdcn.refusals import near
from segdcn.task import SegmentationTask
from segdcn.verbs.report_file import check_report_file, write_report
from segdcn.whole_file import emptied_on_failure

Place = tuple[float, float, str]
MOST_PLACES = 3  # chosen where none are given


def offsets(
    checkpoint: str,
    image: str,
    output: str = "offsets",
    point: list[str] | None = None,
    class_: str | None = None,
    group: int = 0,
    overwrite: bool = False,
    json: str | None = None,
) -> None:
    """Show where the deformable layers of a trained network look on an image.

    Writes `<image>_sampling.png`, the points that the last one, two and three layers read
    together; `<image>_<layer>.png`, each layer's offsets and modulations; and `<image>.html`, a page
    in one file that shows the points under the pointer. Without --point and --class the places are
    the centres of the largest predicted objects.

    Example:
        segdcn offsets runs/NAME/TIME/checkpoints/best.ckpt street.jpg --point 210,340 --output street

    Args:
        checkpoint: Checkpoint of a run, such as best.ckpt.
        image: Picture of any size.
        output: Folder to write to; it must be empty or not exist.
        point: Place in the image, as y,x in pixels; may be given more than once.
        class_: Look at the centres of the largest predicted objects of this class.
        group: Offset group to follow, from 0 on, where the network has more than one.
        overwrite: Write into a folder that holds something, over files of the same names.
        json: Also write the numbers to this file.

    Raises:
        MissingFileError: The checkpoint or the image is missing.
        InvalidDataError: One of them is something else.
        UserValueError: No deformable layers, a point outside the image, a class that is not there.
    """
    if json is not None:
        check_report_file(json)
    if point and class_ is not None:
        raise UserValueError("--point and --class both say where to look; give one of them")
    folder = Path(output).expanduser()
    _check_folder(folder, overwrite)
    pixels = read_picture(Path(image))
    points = [_point(text, pixels.shape[:2], image) for text in point or []]
    task = _load(Path(checkpoint))
    if class_ is not None and class_ not in task.class_names:
        raise UserValueError(
            f"the network knows no class {class_!r}{near(class_, task.class_names)}; "
            f"its classes are {', '.join(task.class_names)}"
        )

    console = Console(soft_wrap=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        pictures = 3 + task.hparams["deform_layers"]
        step = bar.add_task("running the network", total=pictures)
        fields, prediction = _run(task, pixels)
        lost = [field.name for field in fields if not health([field]).finite]
        if lost:
            raise InvalidDataError(
                f"the offsets of {', '.join(lost)} are infinite or NaN: the network of {checkpoint} is lost; "
                "take an earlier checkpoint"
            )
        groups = fields[0].offset.shape[0]
        if not 0 <= group < groups:
            raise UserValueError(f"group is {group}, but the network has {groups}: 0 to {groups - 1}")
        places = _places(points, class_, prediction, task.class_names, image)
        new = not folder.exists() or not any(folder.iterdir())
        with emptied_on_failure(folder) if new else nullcontext():
            folder.mkdir(parents=True, exist_ok=True)
            stem = folder / Path(image).stem
            for name in _draw(stem, Path(image).name, pixels, fields, prediction, task, places, group):
                bar.update(step, advance=1, description=name)
    result = summary(fields, places, group)
    console.print(_table(result))
    for place in result["places"]:
        values = ", ".join(f"{value:.2f}" for value in place["effective_dilation"].values())
        console.print(f"{place['name']} at {place['y']:g},{place['x']:g}: effective dilation {values}", markup=False)
    console.print(f"pictures  {folder}\npage      {folder / Path(image).stem}.html", markup=False)
    if json is not None:
        write_report(json, result)


def summary(fields: Sequence[SamplingField], places: Sequence[Place], group: int = 0) -> dict[str, Any]:
    """Collect the numbers: health of each layer, and the effective dilation of all layers at each place."""
    dilations = {field.name: effective_dilation(field)[group] for field in fields}
    at = [
        {field.name: float(dilations[field.name][output_pixel(field, (y, x))]) for field in fields}
        for y, x, _ in places
    ]
    return {
        "layers": {
            field.name: {
                "dilation": list(field.dilation),
                "effective_dilation": float(dilations[field.name].mean()),
                **asdict(health([field])),
            }
            for field in fields
        },
        "places": [
            {"name": name, "y": y, "x": x, "effective_dilation": values}
            for (y, x, name), values in zip(places, at, strict=True)
        ],
    }


def _check_folder(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserValueError(f"output is {folder}, which is a file; expected a folder to write to")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserValueError(f"output {folder} is not empty; choose another folder, or pass --overwrite true")


def _point(text: str, size: tuple[int, int], image: str) -> tuple[float, float]:
    try:
        y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise UserValueError(f"point is {text!r}; expected y,x in pixels, such as 210,340") from None
    height, width = size
    if not (0 <= y <= height - 1 and 0 <= x <= width - 1):
        raise UserValueError(
            f"the point {text} (y,x) lies outside {image}, which is {height}x{width} (height x width): "
            f"0,0 to {height - 1},{width - 1}"
        )
    return y, x


def _load(path: Path) -> SegmentationTask:
    if not path.is_file():
        raise MissingFileError(
            f"there is no checkpoint {path}; expected a file such as runs/NAME/TIME/checkpoints/best.ckpt"
        )
    task, _, _ = read_task(path)
    if task.hparams["deform_layers"] == 0:
        raise UserValueError(
            f"the network of {path} has no deformable layers (model.deform_layers is 0), so no offsets"
        )
    return task


def _run(task: SegmentationTask, pixels: np.ndarray) -> tuple[list[SamplingField], np.ndarray]:
    """Run the network; return the fields, and the predicted classes (H, W)."""
    height, width = pixels.shape[:2]
    normalise = EvalTransform(task.hparams["mean"], task.hparams["std"])
    image, labels = normalise(pixels, np.zeros((height, width), np.uint8), (0, 0, 0))
    # Padded as in validation.
    batch = PadAndStack(int(task.hparams["output_stride"]))([{"image": image, "labels": labels, "name": ""}])
    logits: list[torch.Tensor] = []
    fields = record(lambda image: logits.append(task(image)), task.network, batch["image"])
    return fields, logits[0].argmax(1)[0, :height, :width].numpy()


def _places(
    points: Sequence[tuple[float, float]],
    wanted: str | None,
    prediction: np.ndarray,
    class_names: Sequence[str],
    image: str,
) -> list[Place]:
    """Say where to look, and call each place by the class that is predicted there."""
    from segdcn.pictures.offsets import choose_places

    if points:
        return [(y, x, class_names[prediction[round(y), round(x)]]) for y, x in points]
    if wanted is None:
        return [(y, x, class_names[label]) for y, x, label in choose_places(prediction, MOST_PLACES)]
    found = [region for region in regions(prediction, smallest=1) if class_names[region.label] == wanted]
    if not found:
        there = ", ".join(class_names[label] for label in np.unique(prediction).tolist())
        raise UserValueError(f"the network finds no {wanted} in {image}; it finds {there}")
    found.sort(key=lambda region: -region.area)
    return [(region.y, region.x, wanted) for region in found[:MOST_PLACES]]


def _draw(
    stem: Path,
    title: str,
    pixels: np.ndarray,
    fields: Sequence[SamplingField],
    prediction: np.ndarray,
    task: SegmentationTask,
    places: Sequence[Place],
    group: int,
) -> Any:
    """Write everything, saying what comes next before each."""
    # Imported here: matplotlib takes a second, which a refusal need not cost.
    from segdcn.pictures.offset_fields import field_picture
    from segdcn.pictures.offset_page import offset_page
    from segdcn.pictures.offsets import follow

    yield "drawing points"
    follow(pixels, fields, places, group).save(f"{stem}_sampling.png")
    for field in fields:
        yield f"drawing {field.name}"
        field_picture(pixels, field, group).save(f"{stem}_{field.name}.png")
    yield "writing the page"
    page = offset_page(title, pixels, fields, prediction, task.class_names, places, group)
    Path(f"{stem}.html").write_text(page, encoding="utf-8")
    yield "done"


def _table(result: dict[str, Any]) -> Table:
    table = Table(title="offsets, in units of the layer's dilation")
    table.add_column("layer", no_wrap=True)
    for heading in ("dilation", "effective", "mean", "p95", "outside", "saturated"):
        table.add_column(heading, justify="right")
    for name, layer in result["layers"].items():
        saturated = "-" if layer["saturated"] is None else f"{layer['saturated']:.1%}"
        table.add_row(
            name.removeprefix("encoder."),
            "x".join(map(str, dict.fromkeys(layer["dilation"]))),
            f"{layer['effective_dilation']:.2f}",
            f"{layer['mean']:.3f}",
            f"{layer['p95']:.3f}",
            f"{layer['outside']:.1%}",
            saturated,
        )
    return table
