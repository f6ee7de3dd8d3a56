"""`segdcn data prepare`: make a training set out of published archives."""

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def data_prepare(what: Literal["voc-sbd"], voc: str, sbd: str, overwrite: bool = False) -> None:
    """Make the 10,582 training images of VOC papers out of PASCAL VOC 2012 and SBD.

    Written into the VOC tree are `SegmentationClassAug`, VOC's own label PNG where it has one and
    SBD's label map as a PNG otherwise, and the list `ImageSets/Segmentation/trainaug.txt`: the
    training and validation images of SBD and the training images of VOC, without VOC's val. Train
    on it with --data.train_split trainaug. Nothing else in the two trees is changed.

    Example:
        segdcn data prepare voc-sbd VOCdevkit/VOC2012 benchmark_RELEASE/dataset

    Args:
        what: voc-sbd.
        voc: Folder of VOC 2012 that holds JPEGImages.
        sbd: Folder of SBD that holds cls, train.txt and val.txt.
        overwrite: Write over what an earlier call wrote.

    Raises:
        MissingFileError: A folder or a file is missing.
        InvalidDataError: A label file is damaged.
        UserValueError: Files are there already.
    """
    from segdcn.data import voc_sbd

    root = Path(voc).expanduser()
    voc_sbd.check_room(root, overwrite)
    plan = voc_sbd.plan(root, Path(sbd).expanduser())
    console = Console()
    columns = (TextColumn("writing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("writing", total=len(plan.names))
        voc_sbd.make(root, plan, progress=lambda: bar.advance(task))

    from_voc = sum(path.suffix == ".png" for path in plan.labels)
    console.print(
        f"trainaug: {len(plan.names):,} images, labels of VOC for {from_voc:,} and of SBD for "
        f"{len(plan.names) - from_voc:,}"
    )
    if len(plan.names) != voc_sbd.OFFICIAL_TRAINAUG:
        lists = ", ".join(f"{name} {count:,} ({voc_sbd.OFFICIAL[name]:,})" for name, count in plan.counts.items())
        console.print(
            f"  note: the official data gives {voc_sbd.OFFICIAL_TRAINAUG:,}; names in the lists here "
            f"(and in the official ones): {lists}",
            soft_wrap=True,
        )
    for name, path in voc_sbd.outputs(root).items():
        console.print(f"  {name:<7} {path}", soft_wrap=True, markup=False, highlight=False)
