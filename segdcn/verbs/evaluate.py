"""`segdcn evaluate`: score label PNGs from anywhere against a data set's ground truth."""

import json as json_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.describe import load_data
from segdcn.data.files import read_id_map
from segdcn.errors import InvalidDataError, MissingFileError
from segdcn.metrics import ConfusionMatrix
from segdcn.verbs.report_file import check_report_file


def evaluate(
    predictions: str,
    ground_truth: str,
    data: str,
    stored_as: Literal["ground_truth", "classes"] = "ground_truth",
    json: str | None = None,
) -> None:
    """Score label PNGs: IoU and Dice by class and category, over all pixels of all files.

    A prediction belongs to a ground truth if its path below its folder is the same, or its name, or
    if its name begins with the ground truth's (`<frame>_pred.png`). Every ground truth needs one.
    Pixels that the ground truth ignores count for nothing; a pixel predicted as no class counts as
    a miss.

    Example:
        segdcn evaluate predictions VOC2012/SegmentationClass configs/data/voc.yaml

    Args:
        predictions: Folder of label PNGs.
        ground_truth: Folder of the data set's label PNGs; no images are needed.
        data: YAML of the data set, which says how labels are stored and what the classes are.
        stored_as: How predictions are stored: as the ground truth is (Cityscapes: labelIds), or
            as class ids from 0 on.
        json: Also write the numbers to this file.

    Raises:
        MissingFileError: A folder or a prediction is missing.
        InvalidDataError: A file is damaged, the sizes differ, or a value is no label.
    """
    if json is not None:
        check_report_file(json)
    truth_folder, guess_folder = Path(ground_truth), Path(predictions)
    for name, folder in {"ground_truth": truth_folder, "predictions": guess_folder}.items():
        if not folder.is_dir():
            raise MissingFileError(f"{name} {folder} is not a folder")
    described = load_data(data, root=str(truth_folder))
    truths = described.label_files(truth_folder)
    if not truths:
        raise MissingFileError(f"ground_truth {truth_folder} holds no label PNGs")
    pairs = _pairs(truths, guess_folder)

    confusion = ConfusionMatrix(described.num_classes)
    console = Console()
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=len(pairs))
        for name, (truth, guess) in pairs.items():
            labels = described.read_labels(Sample(name, truth, truth))
            as_classes = stored_as == "classes"
            guesses = read_id_map(guess) if as_classes else described.read_labels(Sample(name, guess, guess))
            for values, path in ((labels, truth), (guesses, guess)):
                described.check_labels(values, path)
            if guesses.shape != labels.shape:
                raise InvalidDataError(
                    f"{guess} is {guesses.shape[0]}x{guesses.shape[1]} pixels (height x width), "
                    f"but the ground truth {truth} is {labels.shape[0]}x{labels.shape[1]}"
                )
            confusion.update(torch.from_numpy(guesses.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)))
            bar.advance(task)
    result = summary(described, confusion, len(pairs))
    _print(console, result)
    if json is not None:
        Path(json).write_text(json_module.dumps(result, indent=2) + "\n")


def summary(data: SegmentationData, confusion: ConfusionMatrix, num_images: int) -> dict[str, Any]:
    """Collect what a confusion matrix says, with None for what is not defined."""
    groups = torch.zeros(len(data.categories), data.num_classes)
    for row, members in enumerate(data.categories.values()):
        groups[row, members] = 1
    by_category = confusion.group_iou(groups)
    return {
        "images": num_images,
        "mIoU": _number(confusion.mean_iou()),
        "mDice": _number(confusion.dice().nanmean()),
        "pixel_accuracy": _number(confusion.pixel_accuracy()),
        "IoU": dict(zip(data.class_names, map(_number, confusion.iou()), strict=True)),
        "Dice": dict(zip(data.class_names, map(_number, confusion.dice()), strict=True)),
        "pixels": dict(zip(data.class_names, (confusion.matrix.sum(1) + confusion.missed).tolist(), strict=True)),
        "category_IoU": dict(zip(data.categories, map(_number, by_category), strict=True)),
        "category_mIoU": _number(by_category.nanmean()) if len(by_category) else None,
    }


def _number(value: torch.Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _pairs(truths: dict[str, Path], folder: Path) -> dict[str, tuple[Path, Path]]:
    """Find the prediction of every ground truth."""
    files = sorted(folder.rglob("*.png"))
    by_path = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault(path.stem, []).append(path)
    pairs, missing = {}, []
    for name, truth in truths.items():
        stem = name.rpartition("/")[2]
        found = [by_path[name]] if name in by_path else by_name.get(stem, [])
        if not found:
            found = [path for path in files if path.name.startswith(stem)]
        if len(found) > 1:
            raise InvalidDataError(f"{name} has more than one prediction: {found[0]} and {found[1]}; keep one of them")
        if found:
            pairs[name] = (truth, found[0])
        else:
            missing.append(name)
    if missing:
        raise MissingFileError(
            f"{len(missing)} of {len(truths)} ground truths have no prediction below {folder}, such as {missing[0]}; "
            f"expected a PNG called {missing[0].rpartition('/')[2]}*.png"
        )
    return pairs


def _print(console: Console, result: dict[str, Any]) -> None:
    def told(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    table = Table(title=f"{result['images']} images", show_footer=True)
    table.add_column("class", footer="mean")
    table.add_column("IoU", justify="right", footer=told(result["mIoU"]))
    table.add_column("Dice", justify="right", footer=told(result["mDice"]))
    table.add_column("of all pixels", justify="right")
    total = sum(result["pixels"].values())
    for name, iou in result["IoU"].items():
        table.add_row(name, told(iou), told(result["Dice"][name]), f"{result['pixels'][name] / max(total, 1):.2%}")
    console.print(table)
    if result["category_IoU"]:
        parts = ", ".join(f"{name} {told(iou)}" for name, iou in result["category_IoU"].items())
        console.print(f"categories  {told(result['category_mIoU'])} ({parts})", soft_wrap=True)
    console.print(f"mIoU  {told(result['mIoU'])}\npixel accuracy  {told(result['pixel_accuracy'])}")
