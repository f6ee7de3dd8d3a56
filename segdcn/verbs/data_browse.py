"""`segdcn data browse`: a page of a data set's pictures with their labels, as training sees them."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdcn.data.base import SegmentationData
from segdcn.data.describe import load_data
from segdcn.errors import UserValueError
from segdcn.verbs.report_file import check_report_file
from segdcn.whole_file import write_whole


def data_browse(
    data: str,
    output: str,
    root: str | None = None,
    split: str | None = None,
    count: int = 8,
    views: int = 3,
    settings: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write one HTML page with pictures as they are stored and as training augments them, labels laid over.

    The pictures are spread evenly over the split. The page needs no other file and no network: a
    slider fades the labels, pointing at a picture hides them, and every picture lists its classes.

    Example:
        segdcn data browse configs/data/voc.yaml voc.html --root VOCdevkit/VOC2012 --settings.crop_size 256

    Args:
        data: YAML of the data set, such as configs/data/voc.yaml.
        output: HTML file to write.
        root: Folder of the data set, if it is not the YAML's.
        split: Split to show; null shows the one for training.
        count: How many samples.
        views: How many augmented crops of each, those of the first epochs; 0 shows only what is stored.
        settings: Settings of the data set that win over the YAML's.
        overwrite: Write over a file that is there.

    Raises:
        MissingFileError: The YAML, the root or a file is missing.
        InvalidDataError: A file is damaged; `segdcn data check` lists all that are.
        UserValueError: The output cannot be written, or a setting is out of its range.
    """
    path = Path(output).expanduser()
    if path.is_file() and not overwrite:
        raise UserValueError(f"{path} exists already; choose another output, or pass --overwrite true")
    check_report_file(str(path), "output")
    if count < 1 or views < 0:
        raise UserValueError(f"count is {count} and views is {views}; expected 1 or more, and 0 or more")
    described = load_data(data, settings, root=root, train_split=split)
    tiles, total = _tiles(described, count, views)

    from segdcn.pictures.contact_sheet import Classes, contact_sheet

    shown = len(tiles) // (views + 1)
    write_whole(
        path,
        contact_sheet(
            title=f"{type(described).__name__}: {shown} of the {total} images of {described.train_split}",
            subtitle=_augmentation(described) if views else _unchanged(described).capitalize(),
            tiles=tiles,
            columns=views + 1 if views else min(4, shown),
            classes=Classes(described.class_names, described.palette),
        ),
        errors="backslashreplace",  # names of files may be no text in any encoding
    )
    size = path.stat().st_size / 1e6
    Console().print(f"{path}  ({shown} samples, {len(tiles)} pictures, {size:.1f} MB)", soft_wrap=True, markup=False)


def _tiles(data: SegmentationData, count: int, views: int) -> tuple[list[Any], int]:
    """Read and augment; gives the tiles and how many samples the split has."""
    from segdcn.pictures.contact_sheet import Tile
    from segdcn.pictures.segmentation import to_pixels

    dataset = data.train_dataset()
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    tiles = []
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        for index in bar.track(chosen):
            image, labels = dataset.read(index)
            name, (height, width) = dataset.samples[index].name, labels.shape
            tiles.append(Tile(f"{name}, {height} x {width}", image, labels))
            for epoch in range(views):
                item = dataset[(epoch, index)]
                pixels = to_pixels(item["image"], data.mean, data.std)
                tiles.append(Tile(f"augmented, epoch {epoch}", pixels, item["labels"].numpy().astype(np.uint8)))
    return tiles, len(dataset)


def _augmentation(data: SegmentationData) -> str:
    """Say what the settings do to a picture; what is off is left out."""
    height, width = data.crop_size
    smallest, largest = data.scale_range
    parts = [f"crops of {height} x {width}", f"scaled by {smallest:g} to {largest:g}"]
    if data.cat_max_ratio < 1:
        parts.append(f"at most {data.cat_max_ratio:g} of one class where 10 tries find it")
    if data.rotation:
        parts.append(f"turned by up to {data.rotation:g} degrees")
    if data.flip_prob:
        parts.append(f"mirrored with probability {data.flip_prob:g}")
    if data.colour_jitter:
        parts.append(f"colour jitter {data.colour_jitter:g}")
    if data.blur:
        parts.append(f"blurred with probability {data.blur:g}")
    return f"Left: {_unchanged(data)}. Beside it: {', '.join(parts)}"


def _unchanged(data: SegmentationData) -> str:
    return "as stored" if data.resize is None else f"as read, at {data.resize[0]} x {data.resize[1]}"
