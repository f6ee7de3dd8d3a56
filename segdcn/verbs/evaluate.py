"""`segdcn evaluate`: score label PNGs from anywhere against a data set's ground truth."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdcn.data.base import Sample, SegmentationData
from segdcn.data.describe import load_data
from segdcn.data.files import read_id_map
from segdcn.data.lists import read_list
from segdcn.errors import InvalidDataError, MissingFileError
from segdcn.metrics import Evaluation
from segdcn.metrics.evaluation import numbers
from segdcn.summary import iou_table, size_table, told
from segdcn.verbs.report_file import check_report_file, write_report


def evaluate(
    predictions: str,
    ground_truth: str,
    data: str,
    stored_as: Literal["ground_truth", "classes"] = "ground_truth",
    names: str | None = None,
    detail: bool = True,
    json: str | None = None,
) -> None:
    """Score label PNGs: IoU by class, category and size of objects, and at boundaries, over all files.

    A prediction belongs to a ground truth if its path below its folder is the same, or its name, or
    if its name begins with the ground truth's (`<frame>_pred.png`). Every ground truth needs one;
    `names` says which of them count. Objects are those of the instance maps that lie beside the
    ground truth, or connected regions of a class.
    Pixels that the ground truth ignores count for nothing; a pixel predicted as no class counts as
    a miss.

    Example:
        segdcn evaluate predictions VOC2012/SegmentationClass --data configs/data/voc.yaml

    Args:
        predictions: Folder of label PNGs.
        ground_truth: Folder of the data set's label PNGs; no images are needed.
        data: YAML of the data set, which says how labels are stored and what the classes are.
        stored_as: How predictions are stored: as the ground truth is (Cityscapes: labelIds), or
            as class ids from 0 on.
        names: Text file with the names to score, one a line, such as VOC's
            ImageSets/Segmentation/val.txt; null scores all that the ground truth holds.
        detail: Score boundaries and objects too; for street scenes that takes most of the time.
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
    pairs = _pairs(truths if names is None else _named(truths, Path(names)), guess_folder)

    evaluation = Evaluation(described.num_classes, in_detail=detail)
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
            instances = _instances(described, name, truth, labels) if detail else None
            evaluation.update(_batch(guesses), _batch(labels), instances=instances)
            bar.advance(task)
    result = summary(described, evaluation)
    console.print(iou_table(f"{result['images']} images", list(described.class_names), evaluation))
    if detail:
        console.print(size_table(evaluation))
    _print(console, result)
    if json is not None:
        write_report(json, result)


def summary(data: SegmentationData, evaluation: Evaluation) -> dict[str, Any]:
    """Collect what was measured, with None for what is not defined."""
    groups = torch.zeros(len(data.categories), data.num_classes)
    for row, members in enumerate(data.categories.values()):
        groups[row, members] = 1
    by_category = evaluation.confusion.group_iou(groups)
    return evaluation.results(data.class_names) | {
        "category_IoU": dict(zip(data.categories, numbers(by_category), strict=True)),
        "category_mIoU": numbers(by_category.nanmean()) if len(by_category) else None,
    }


def _batch(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))[None]  # (1, H, W)


def _instances(data: SegmentationData, name: str, truth: Path, labels: np.ndarray) -> torch.Tensor | None:
    """Read the instance map of a ground truth, if it has one."""
    path = data.instance_file(truth)
    if path is None:
        return None
    instances = data.read_instances(Sample(name, truth, truth, path))
    if instances.shape != labels.shape:
        raise InvalidDataError(
            f"{path} is {instances.shape[0]}x{instances.shape[1]} pixels (height x width), "
            f"but the labels {truth} are {labels.shape[0]}x{labels.shape[1]}"
        )
    return _batch(instances)


def _named(truths: dict[str, Path], names: Path) -> dict[str, Path]:
    """Keep the ground truths that a list names."""
    if not names.is_file():
        raise MissingFileError(f"names {names} does not exist; expected a text file with one name a line")
    wanted = [name for _, name in read_list(names)]
    if not wanted:
        raise InvalidDataError(f"names {names} holds no names")
    if unknown := [name for name in wanted if name not in truths]:
        raise MissingFileError(
            f"{len(unknown)} of {len(wanted)} names in {names} have no ground truth, such as {unknown[0]}"
        )
    return {name: truths[name] for name in wanted}


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
    if result["category_IoU"]:
        parts = ", ".join(f"{name} {told(iou)}" for name, iou in result["category_IoU"].items())
        console.print(f"categories  {told(result['category_mIoU'])} ({parts})", soft_wrap=True)
    for name, key in {"mIoU": "mIoU", "mean Dice": "mDice", "pixel accuracy": "pixel_accuracy"}.items():
        console.print(f"{name}  {told(result[key])}")
