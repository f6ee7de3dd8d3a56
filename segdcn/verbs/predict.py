"""`segdcn predict`: label maps of pictures, from whatever `segdcn.load` opens."""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from segdcn.device import chosen_device, move
from segdcn.errors import InvalidDataError, UserValueError
from segdcn.export import load
from segdcn.inference import Inference
from segdcn.prediction.inputs import find_pictures
from segdcn.prediction.labelling import Labelling
from segdcn.prediction.results import ENDINGS, LABELS, Results, check_folder, check_places
from segdcn.predictor import Predictor
from segdcn.verbs.report_file import check_report_file, write_report


def predict(
    model: str,
    inputs: list[str],
    output: str = "predictions",
    overlays: bool = True,
    probabilities: bool = False,
    window: list[int] | None = None,
    whole: bool = False,
    overlap: float | None = None,
    scales: list[float] | None = None,
    flip: bool | None = None,
    batch_size: int = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
    overwrite: bool = False,
    json: str | None = None,
) -> int:
    """Label pictures: files, folders with all below them, or quoted glob patterns.

    Writes labels/NAME.png (class ids of the network, with its classes' colours), overlays/NAME.jpg
    (labels over the picture; overlays/legend.png tells the colours) and, if wanted, probabilities/NAME.npy, float16
    (classes, height, width). All have the picture's size and name; below folders, results lie as the
    pictures do. Photographs that a camera stored turned (EXIF) are turned upright, and so are their results.

    The network sees a picture as it did in validation, whose settings the checkpoint keeps, unless they are
    given here: the labels are those that `segdcn validate` measured.

    A picture that cannot be read is named at the end, and the exit code is 1. Ctrl-C keeps what is finished.

    Example:
        segdcn predict runs/NAME/TIME/checkpoints/best.ckpt street.jpg photos 'clips/*/*.png' --output labelled

    Args:
        model: A checkpoint, or what segdcn export wrote.
        inputs: Pictures, folders, glob patterns.
        output: Folder to write to; it must be empty or not exist.
        overlays: Write overlays.
        probabilities: Write probabilities: 2 bytes a class and pixel, 80 MB for 19 classes at 1024x2048.
        window: Label in overlapping windows of this size, for large pictures: one number, or height and width.
        whole: Show the network whole pictures, even if it was validated in windows.
        overlap: Share of a window that its neighbours cover too, from 0 to below 1.
        scales: Average the probabilities at these scales.
        flip: Average with the mirror image too.
        batch_size: Pictures of one size that the network sees at once; more is faster on a GPU.
        device: auto is the GPU where there is one.
        trust: Open a .pt2 file, which can hold code.
        overwrite: Write into a folder that holds something, over files of the same names.
        json: Also write the summary to this file.

    Returns:
        0, or 1 where a picture could not be labelled.

    Raises:
        MissingFileError: The model or one of the inputs is not there.
        InvalidDataError: The model is damaged.
        UserValueError: A setting does not fit, or two results would have the same name.
    """
    folder = Path(output).expanduser()
    # A report that goes into a folder which is still to be made cannot be tried now.
    if json is not None and not (Path(json).absolute().parent == folder.absolute() and not folder.exists()):
        check_report_file(json)
    if batch_size < 1:
        raise UserValueError(f"batch_size is {batch_size}; at least 1 is needed")
    if whole and window is not None:
        raise UserValueError("--whole and --window exclude each other; give one of them")
    check_folder(folder, overwrite)
    sources = find_pictures(inputs, [folder / kind for kind in ENDINGS])
    target = None if device == "auto" else chosen_device(device)

    predictor = load(model, trust)
    chosen = {"eval_window": window, "eval_overlap": overlap, "eval_scales": scales, "eval_flip": flip}
    inference = _inference(predictor, {name: value for name, value in chosen.items() if value is not None}, whole)
    if target is None and predictor.network is not None:
        target = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if target is not None:
        move(predictor, target, model)
    names, palette = predictor.class_names, predictor.description.palette
    results = Results(folder, names, palette, overlays, probabilities)
    check_places(results, sources)
    results.make_folder()

    console = Console(soft_wrap=True, highlight=False, markup=False)
    columns = (TextColumn("labelling"), BarColumn(), MofNCompleteColumn(), _Speed(), TimeRemainingColumn())
    start = time.monotonic()
    quiet = not console.is_terminal  # in a file, a bar would be an empty line
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar, _strict_pictures():
        task = bar.add_task("labelling", total=len(sources))
        labelling = Labelling(predictor, inference, results, batch_size, lambda: bar.advance(task))
        try:
            labelling.run(sources)
        except (KeyboardInterrupt, UserValueError) as error:
            kept = f"{error}; {labelling.finished} of {len(sources)} pictures are labelled, in {folder}"
            raise type(error)(kept) from None
    seconds = time.monotonic() - start
    result: dict[str, Any] = {
        "model": model,
        "weights_sha256": predictor.description.weights_sha256,
        "classes": names,
        "output": str(folder),
        "inference": {
            "window": inference.window,
            "overlap": inference.overlap,
            "scales": inference.scales,
            "flip": inference.flip,
            "batch_size": batch_size,
            "device": str(target or predictor.description.device),
        },
        "labelled": labelling.finished,
        "seconds": seconds,
        "pictures_per_second": labelling.finished / seconds,
        "failed": [{"picture": str(path), "reason": reason} for path, reason in labelling.failed],
    }
    _print(console, result, folder)
    if json is not None:
        write_report(json, result)
    return 1 if labelling.failed else 0


def _inference(predictor: Predictor, chosen: Mapping[str, Any], whole: bool) -> Inference:
    """Say how the network is applied: as in validation, but for what was chosen."""
    settings = {**predictor.description.config, **chosen}
    match settings.get("eval_window"):
        case _ if whole:
            settings["eval_window"] = None
        case [side]:
            settings["eval_window"] = [side, side]
    try:
        return Inference.of_settings(settings, predictor.description.size_divisor)
    except TypeError as error:  # what is chosen has been parsed; what a file says may be anything
        raise InvalidDataError(f"the model keeps settings of validation that cannot be: {error}") from error


@contextmanager
def _strict_pictures() -> Iterator[None]:
    """Refuse pictures larger than Pillow's limit, and take odd metadata: it only warns of either."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\..*")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _print(console: Console, result: Mapping[str, Any], folder: Path) -> None:
    def line(text: str) -> None:
        # Names may hold line ends, and be no text in any encoding.
        console.print("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))

    count, failed = result["labelled"], result["failed"]
    speed = f"in {result['seconds']:.1f} s, {result['pictures_per_second']:.2f} a second"
    line(f"{count} picture{'' if count == 1 else 's'} labelled {speed}: {folder / LABELS}")
    if failed:
        line(f"{len(failed)} could not be labelled:")
    for one in failed:
        line(one["reason"])


class _Speed(ProgressColumn):
    """How many pictures a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f} a second")
