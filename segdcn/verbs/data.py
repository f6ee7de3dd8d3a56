"""`segdcn data ...`: make data sets."""

import re
import shutil
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segdcn.errors import UserValueError
from segdcn.whole_file import emptied_on_failure


def make_shapes(
    output: str,
    train: int = 1200,
    val: int = 240,
    size: int = 96,
    deformation: float = 0.5,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Make Shapes, a data set whose six classes differ by form alone.

    The pictures look like paper collages: discs, triangles, crosses, stars, rings and
    crescents of any size (a factor of 4.2), turned and bent, on a cluttered ground. Colours
    and patterns say nothing about the class. The folder gets VOC's layout, with instance
    maps. The same settings give the same pixels.

    Example:
        segdcn data make-shapes --output datasets/shapes --seed 1

    Args:
        output: Folder to write; it must be empty or not exist.
        train: Number of training pictures.
        val: Number of validation pictures.
        size: Side of the square pictures in pixels, 32 or more.
        deformation: How strongly outlines are stretched and bent, 0 (only scaled and
            turned) to 1.
        seed: Seed of everything, 0 or more.
        overwrite: Empty the folder first, if it holds an earlier Shapes data set.

    Raises:
        UserValueError: The folder holds something, or a setting is out of its range.
    """
    from segdcn.data import shapes

    shapes.check_settings(train, val, size, deformation, seed)
    root = Path(output).expanduser()
    _make_room(root, overwrite)
    console = Console()
    columns = (TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with emptied_on_failure(root), Progress(*columns, console=console) as bar:
        task = bar.add_task("drawing", total=train + val)
        record = shapes.make(root, train, val, size, deformation, seed, progress=lambda: bar.advance(task))

    background = record["pixel_shares"]["val"]["background"]
    lines = {
        "pictures": root / "JPEGImages",
        "labels": root / "SegmentationClass",
        "instances": root / "SegmentationObject",
        "settings": root / shapes.RECORD,
    }
    console.print(f"Shapes: {train} training and {val} validation pictures of {size}x{size} pixels")
    for name, path in lines.items():
        console.print(f"  {name:<10} {path}", soft_wrap=True)
    console.print(f"  background everywhere gives a val mIoU of {background / len(shapes.CLASS_NAMES):.3f}")


def _is_ours(path: Path, root: Path) -> bool:
    """Tell whether a file is one that `shapes.make` writes below `root`, by its place and name."""
    patterns = (
        r"(JPEGImages|SegmentationClass|SegmentationObject)/(train|val)_\d{5}\.png",
        r"ImageSets/Segmentation/(train|val)\.txt",
        r"dataset\.json",
    )
    return re.fullmatch("|".join(patterns), path.relative_to(root).as_posix()) is not None


def _make_room(root: Path, overwrite: bool) -> None:
    if root.exists() and not root.is_dir():
        raise UserValueError(f"{root} is a file; expected a folder to write to")
    held = {path.name for path in root.iterdir()} if root.is_dir() else set()
    if not held:
        return
    foreign = next((path for path in sorted(root.rglob("*")) if path.is_file() and not _is_ours(path, root)), None)
    if foreign is not None:
        # Even with overwrite: a mistyped folder must not cost anyone their files.
        raise UserValueError(
            f"{root} holds files that make-shapes did not write, such as {foreign}; choose another --output"
        )
    if not overwrite:
        raise UserValueError(f"{root} is not empty; choose another --output, or pass --overwrite true")
    for name in held:
        path = root / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
