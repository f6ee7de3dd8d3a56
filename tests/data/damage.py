"""Data sets damaged on purpose, and what becomes of each.

Every case spoils one small data set in one way. `segdcn data check` has to find it, and training
has to stop at it with one line that names the file. What no batch can show (an image in two
splits) only the check finds, and training goes on; so it does with odd names and line ends.

    python tests/data/damage.py          # the table of outcomes: check, and training without and with workers
    python tests/data/damage.py --fit    # also through `segdcn fit`, some minutes more
"""

import os
import shutil
import struct
import subprocess
import sys
import tempfile
import traceback
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from segdcn.data import VOC, original_message
from segdcn.data.check import Problem, check, default_splits
from segdcn.data.describe import load_data
from segdcn.errors import UserError

TRAIN, VAL = ("t0", "t1", "t2", "t3"), ("v0", "v1")
SIZE = (48, 64)


@dataclass(frozen=True)
class Case:
    """One damage.

    Attributes:
        kind: What sort of damage.
        found: What `segdcn data check` calls it (`segdcn.data.check.KINDS`); empty if nothing is wrong.
        name: Which case of the kind.
        spoil: Called with the root of a whole data set and a generator.
        named: What a line about it has to hold: the file, or as much as is known of it.
        layout: Of the data set: voc, folder or city.
    """

    kind: str
    found: str
    name: str
    spoil: Callable[[Path, np.random.Generator], object]
    named: str = ""
    layout: str = "voc"

    @property
    def id(self) -> str:
        """Name the case, for tests."""
        return f"{self.kind}, {self.name}".replace(" ", "_")

    @property
    def stops_training(self) -> bool:
        """What a batch cannot show does not stop it."""
        return self.found not in ("", "ignored", "repeated", "leak", "renumbered")

    @property
    def applies(self) -> bool:
        """Permissions do not bind root."""
        return self.kind != "permission" or os.geteuid() != 0


# Whole data sets


def make(case: Case, folder: Path, seed: int = 0) -> Path:
    """Write the data set of a case below a folder and spoil it; gives its YAML."""
    rng = np.random.default_rng((seed, zlib.crc32(case.id.encode())))
    root = folder / "my sét"  # a name that has to work
    settings = {"voc": _voc, "folder": _folder, "city": _cityscapes}[case.layout](root, rng)
    settings["init_args"] |= {"root": str(root), "batch_size": 2, "num_workers": 0, "crop_size": 32}
    case.spoil(root, rng)
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


def _voc(root: Path, rng: np.random.Generator) -> dict:
    for name in (*TRAIN, *VAL):
        _write_pair(root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", rng)
    for split, names in {"train": TRAIN, "val": VAL}.items():
        _write(root / f"ImageSets/Segmentation/{split}.txt", "\n".join(names) + "\n")
    return {"class_path": "segdcn.data.VOC", "init_args": {}}


def _folder(root: Path, rng: np.random.Generator) -> dict:
    for split, names in {"train": TRAIN, "val": VAL}.items():
        for name in names:
            _write_pair(root / f"images/{name}.png", root / f"labels/{name}.png", rng)
        _write(root / f"{split}.txt", "".join(f"images/{name}.png labels/{name}.png\n" for name in names))
    classes = dict(zip(VOC.class_names, map(list, VOC.palette), strict=True))
    return {"class_path": "segdcn.data.Folder", "init_args": {"classes": classes, "lists": "{split}.txt"}}


def _cityscapes(root: Path, rng: np.random.Generator) -> dict:
    for split, names in {"train": TRAIN, "val": VAL}.items():
        for name in names:
            image = root / f"leftImg8bit/{split}/ulm/{name}_leftImg8bit.png"
            _write_pair(image, root / f"gtFine/{split}/ulm/{name}_gtFine_labelIds.png", rng, palette=False)
    return {"class_path": "segdcn.data.Cityscapes", "init_args": {}}


def _write_pair(image: Path, labels: Path, rng: np.random.Generator, palette: bool = True) -> None:
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    picture(rng).save(image)
    label_map(rng, palette).save(labels)


def picture(rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def label_map(rng: np.random.Generator, palette: bool = True) -> Image.Image:
    """A rectangle of some class on background, with a border to ignore."""
    ids = np.zeros(SIZE, np.uint8)
    ids[8:40, 8:40] = 255
    ids[10:38, 10:38] = rng.choice((7, 8, 11, 12, 13, 17, 19, 20))  # a class in VOC and in Cityscapes
    result = Image.fromarray(ids)
    if palette:
        result.putpalette(np.array(VOC.palette, np.uint8).tobytes())
    return result


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


# Ways to spoil one


def cut(file: str, kept: float) -> Callable:
    """Keep the first part of a file: a share below 1, or a number of bytes."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        content = (root / file).read_bytes()
        (root / file).write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])

    return spoil


def content(file: str, value: str | bytes) -> Callable:
    return lambda root, rng: _write(root / file, value)


def flip_bits(file: str) -> Callable:
    """Change a byte in the middle of the compressed pixels."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        stored = bytearray((root / file).read_bytes())
        stored[stored.index(b"IDAT") + 10] ^= 0xFF
        (root / file).write_bytes(stored)

    return spoil


def remove(file: str) -> Callable:
    def spoil(root: Path, rng: np.random.Generator) -> None:
        shutil.rmtree(root / file) if (root / file).is_dir() else (root / file).unlink()

    return spoil


def stored(file: str, array: Callable[[np.random.Generator], np.ndarray], kind: str | None = None) -> Callable:
    """Put an array in place of a file, in the format of its suffix or another."""
    return lambda root, rng: Image.fromarray(array(rng)).save(root / file, format=kind)


def changed(file: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Change the ids in a label map, which keeps its palette."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        with Image.open(root / file) as before:
            colours = before.getpalette()
            after = Image.fromarray(change(np.array(before)))
        if colours is not None and after.mode == "L":
            after.putpalette(colours)
        after.save(root / file)

    return spoil


def one_pixel(value: int, kind: type = np.uint8) -> Callable[[np.ndarray], np.ndarray]:
    def change(ids: np.ndarray) -> np.ndarray:
        ids = ids.astype(kind)
        ids[20, 20] = value
        return ids

    return change


def exchange(first: str, second: str) -> Callable:
    def spoil(root: Path, rng: np.random.Generator) -> None:
        os.rename(root / first, root / "between")
        os.rename(root / second, root / first)
        os.rename(root / "between", root / second)

    return spoil


def folder_instead(file: str) -> Callable:
    def spoil(root: Path, rng: np.random.Generator) -> None:
        (root / file).unlink()
        (root / file).mkdir()

    return spoil


def link(file: str, target: str) -> Callable:
    """Put a symbolic link in place of a file; the target is relative to its folder."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        (root / file).unlink(missing_ok=True)
        (root / file).symlink_to(target)

    return spoil


def forbid(file: str) -> Callable:
    return lambda root, rng: (root / file).chmod(0)


def gigantic(file: str) -> Callable:
    """A PNG whose header promises 60,000 x 60,000 pixels."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
        start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13)
        (root / file).write_bytes(start + header + struct.pack(">I", zlib.crc32(header)))

    return spoil


def line(file: str, text: str) -> Callable:
    """Add a line to a list."""
    return lambda root, rng: _write(root / file, (root / file).read_text() + text + "\n")


def copied(target: str) -> Callable:
    """Give a sample of train to val too: its picture under a name of its own, perhaps in another format."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        with Image.open(root / "images/t2.png") as image:
            image.save(root / target)
        line("val.txt", f"{target} labels/t2.png")(root, rng)

    return spoil


def renumbered(file: str) -> Callable:
    """Save a label map as programs do that make a palette of their own: right colours, other ids."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        with Image.open(root / file) as before:
            after = before.convert("RGB").quantize(2)
        after.save(root / file)

    return spoil


def moved(file: str, to: str) -> Callable:
    """Move a file and leave a link to it."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        os.rename(root / file, root / to)
        (root / file).symlink_to(root / to)

    return spoil


def renamed(before: str, after: str, ends: str = "\n", encoding: str = "utf-8") -> Callable:
    """Give a training picture of a VOC tree another name."""

    def spoil(root: Path, rng: np.random.Generator) -> None:
        os.rename(root / f"JPEGImages/{before}.jpg", root / f"JPEGImages/{after}.jpg")
        os.rename(root / f"SegmentationClass/{before}.png", root / f"SegmentationClass/{after}.png")
        names = [after if name == before else name for name in TRAIN]
        _write(root / LIST, (ends.join(names) + ends).encode(encoding))

    return spoil


def grey(rng: np.random.Generator) -> np.ndarray:
    return np.full(SIZE, 3, np.uint8)


def deep(kind: type) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: (1000 * rng.random(SIZE)).astype(kind)


def colours(*channels: int) -> Callable[[np.random.Generator], np.ndarray]:
    return lambda rng: rng.integers(0, 3, (*SIZE, *channels), dtype=np.uint8)


IMAGE, LABELS, VAL_LABELS = "JPEGImages/t2.jpg", "SegmentationClass/t2.png", "SegmentationClass/v1.png"
LIST, VAL_LIST = "ImageSets/Segmentation/train.txt", "ImageSets/Segmentation/val.txt"
PNG, PNG_LABELS = "images/t2.png", "labels/t2.png"
CITY, CITY_VAL = "gtFine/train/ulm/t2_gtFine_labelIds.png", "gtFine/val/ulm/v1_gtFine_labelIds.png"

PAIR = "images/t1.png labels/t1.png\n"

# Kind of damage, what the check calls it, and its cases.
# fmt: off
TABLE: list[tuple[str, str, list[tuple]]] = [
    ("cut short", "unreadable", [
        ("picture", cut(IMAGE, 0.7), IMAGE),
        ("labels", cut(LABELS, 0.7), LABELS),
        ("labels of val, in the header", cut(VAL_LABELS, 20), VAL_LABELS),
    ]),
    ("empty file", "unreadable", [
        ("picture", cut(IMAGE, 0), IMAGE),
        ("labels", cut(LABELS, 0), LABELS),
        ("labels of val", cut(VAL_LABELS, 0), VAL_LABELS),
    ]),
    ("no picture", "unreadable", [
        ("text", content(IMAGE, "<html>404 Not Found</html>"), IMAGE),
        ("changed byte", flip_bits(LABELS), LABELS),
        ("gigantic size", gigantic(PNG), PNG, "folder"),
    ]),
    ("missing file", "missing", [
        ("picture", remove(IMAGE), IMAGE),
        ("labels", remove(LABELS), LABELS),
        ("labels of a frame", remove(CITY_VAL), CITY_VAL, "city"),
    ]),
    ("missing folder", "split", [
        ("pictures", remove("JPEGImages"), "JPEGImages"),
        ("lists", remove("ImageSets"), "ImageSets/Segmentation"),
        ("gtFine", remove("gtFine"), "gtFine", "city"),
    ]),
    ("swapped folders", "missing", [
        ("pictures and labels", exchange("JPEGImages", "SegmentationClass"), "JPEGImages/t0.jpg"),
        ("labels of the splits", exchange("gtFine/train", "gtFine/val"), "t0_gtFine", "city"),
        ("frames of the splits", exchange("leftImg8bit/train", "leftImg8bit/val"), "v0_gtFine", "city"),
    ]),
    ("labels in colours", "labels", [
        ("RGB", stored(LABELS, colours(3)), LABELS),
        ("RGBA", stored(CITY, colours(4)), CITY, "city"),
        ("picture and labels exchanged", exchange(PNG, PNG_LABELS), PNG_LABELS, "folder"),
    ]),
    ("labels of a wrong type", "labels", [
        ("float", stored(LABELS, deep(np.float32), "TIFF"), LABELS),
        ("grey and alpha", stored(LABELS, colours(2)), LABELS),
        ("JPEG", stored(VAL_LABELS, grey, "JPEG"), VAL_LABELS),
    ]),
    ("values", "labels", [
        ("first above the classes", changed(LABELS, one_pixel(21)), LABELS),
        ("16 bits", changed(PNG_LABELS, one_pixel(1000, np.uint16)), PNG_LABELS, "folder"),
        ("one of val", changed(VAL_LABELS, one_pixel(254)), VAL_LABELS),
    ]),
    ("values of Cityscapes", "labels", [
        ("no labelId", changed(CITY, one_pixel(34)), CITY, "city"),
        ("an instanceId", changed(CITY, one_pixel(26001, np.uint16)), CITY, "city"),
        ("254 in val", changed(CITY_VAL, one_pixel(254)), CITY_VAL, "city"),
    ]),
    ("size", "size", [
        ("turned", changed(LABELS, np.transpose), LABELS),
        ("a row less", changed(VAL_LABELS, lambda ids: ids[1:]), VAL_LABELS),
        ("half", changed(PNG_LABELS, lambda ids: ids[::2, ::2]), PNG_LABELS, "folder"),
    ]),
    ("deep picture", "unreadable", [
        ("16 bits", stored(PNG, deep(np.uint16)), PNG, "folder"),
        ("32 bits", stored(PNG, deep(np.int32), "TIFF"), PNG, "folder"),
        ("float", stored(IMAGE, deep(np.float32), "TIFF"), IMAGE),
    ]),
    ("list leads outside", "split", [
        ("upwards", line(LIST, "../../t9"), f"{LIST}, line 5 names JPEGImages/../../t9.jpg"),
        ("absolute", line("train.txt", "/etc/a.png labels/t0.png"), "train.txt, line 5 names /etc/a.png", "folder"),
        ("backslashes", line("val.txt", r"..\a.png labels\t0.png"), r"val.txt, line 3 names ..\a.png", "folder"),
    ]),
    ("list is no text", "split", [
        ("Latin-1", content(LIST, "t0\nt\xe4\n".encode("latin-1")), LIST),
        ("UTF-16", content(VAL_LIST, "v0\nv1\n".encode("utf-16-le")), VAL_LIST),
        ("any bytes", content("train.txt", bytes(range(256))), "train.txt", "folder"),
    ]),
    ("nothing listed", "split", [
        ("empty list", content(LIST, ""), "the split 'train' of"),
        ("blank lines", content("val.txt", "\r\n \r\n"), "the split 'val' of", "folder"),
        ("no cities", remove("leftImg8bit/train/ulm"), "the split 'train' of", "city"),
    ]),
    ("folder for a file", "unreadable", [
        ("picture", folder_instead(IMAGE), IMAGE),
        ("labels", folder_instead(LABELS), LABELS),
        ("labels of a frame", folder_instead(CITY), CITY, "city"),
    ]),
    ("folder for a list", "split", [
        ("train", folder_instead("train.txt"), "train.txt", "folder"),
        ("val", folder_instead("val.txt"), "val.txt", "folder"),
        ("of VOC", folder_instead(LIST), LIST),
    ]),
    ("link that leads to no file", "missing", [
        ("picture", link(IMAGE, "gone.jpg"), IMAGE),
        ("labels", link(LABELS, "/gone.png"), LABELS),
        ("below a file", link(PNG, "t0.png/t2.png"), PNG, "folder"),
    ]),
    ("link in a circle", "unreadable", [
        ("labels", link(LABELS, "t2.png"), LABELS),
        ("picture", link(PNG, "../images/t2.png"), PNG, "folder"),
        ("to its folder", link(VAL_LABELS, "."), VAL_LABELS),
    ]),
    ("own label map", "itself", [
        ("by the list", content("train.txt", "images/t0.png images/t0.png\n" + PAIR), "images/t0.png", "folder"),
        ("of val", content("val.txt", "labels/v0.png\tlabels/v0.png"), "labels/v0.png", "folder"),
        ("by a link", link(PNG_LABELS, "../images/t2.png"), "t2.png", "folder"),
    ]),
    ("permission", "unreadable", [
        ("picture", forbid(IMAGE), IMAGE),
        ("labels", forbid(LABELS), LABELS),
        ("labels of val", forbid(VAL_LABELS), VAL_LABELS),
    ]),
    ("all ignored", "ignored", [
        ("in train", changed(LABELS, lambda ids: ids * 0 + 255), LABELS),
        ("in val", changed(VAL_LABELS, lambda ids: ids * 0 + 255), VAL_LABELS),
        ("void ids", changed(CITY, lambda ids: ids * 0 + 3), CITY, "city"),
    ]),
    ("listed twice", "repeated", [
        ("in train", line(LIST, "t2"), IMAGE),
        ("by another path", line(VAL_LIST, "./v1"), "JPEGImages/v1.jpg"),
        ("as a pair", line("train.txt", f"{PNG} {PNG_LABELS}"), PNG, "folder"),
    ]),
    ("in two splits", "leak", [
        ("same file", line(VAL_LIST, "t2"), IMAGE),
        ("a copy", copied("images/c.png"), "images/c.png", "folder"),
        ("saved in another format", copied("images/c.bmp"), "images/c.bmp", "folder"),
    ]),
    ("ids renumbered", "renumbered", [
        ("in train", renumbered(LABELS), LABELS),
        ("in val", renumbered(VAL_LABELS), VAL_LABELS),
        ("in a folder", renumbered(PNG_LABELS), PNG_LABELS, "folder"),
    ]),
    ("as it should be", "", [
        ("Windows line ends", content(LIST, "t0\r\nt1\r\nt2\r\nt3\r\n")),
        ("spaces", renamed("t2", "my best photo")),
        ("any letter", renamed("t2", "grüne 木 ß", "\r\n", "utf-8-sig")),
        ("linked picture", moved("JPEGImages/t3.jpg", "elsewhere.jpg")),
        ("linked folder", moved("images", "elsewhere"), "", "folder"),
    ]),
]
# fmt: on
CASES = [Case(kind, found, *row) for kind, found, rows in TABLE for row in rows]


# What becomes of one


def problems(data_yaml: Path) -> list[Problem]:
    """What `segdcn data check` finds."""
    data = load_data(str(data_yaml))
    return check(data, default_splits(data)).problems


def stop(data_yaml: Path, num_workers: int) -> str:
    """The line in which loading ends that training does: an epoch of train, then val; empty if it does not."""
    data = load_data(str(data_yaml), num_workers=num_workers)
    try:
        data.setup("fit")
        list(data.train_dataloader())
        list(data.val_dataloader())
    except UserError as error:
        # A worker's error holds its loader in a circle; freed late, its workers take ten seconds to end.
        traceback.clear_frames(error.__traceback__)
        return original_message(error)
    return ""


def fit_arguments(data_yaml: Path, num_workers: int) -> list[str]:
    """The command line after `segdcn` that trains a small network for one epoch."""
    flags = {
        "data": data_yaml,
        "data.num_workers": num_workers,
        "model.architecture": "deeplab",
        "model.encoder": "resnet18",
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "pictures.count": 0,
        "wandb": "off",
        "runs_dir": data_yaml.parent / "runs",
    }
    return ["fit", *(f"--{key}={value}" for key, value in flags.items())]


def is_found(case: Case, found: list[Problem]) -> bool:
    """Whether the check said what is wrong, nothing else, and each thing in one line."""
    kinds = {problem.kind for problem in found}
    one_line = all("\n" not in problem.message for problem in found)
    return kinds == {case.found} - {""} and one_line and (not found or any(case.named in p.message for p in found))


def one_line(code: int, error: str) -> str:
    """What `segdcn` said on stopping, without what stands before every such line; all of it if that is not so."""
    if code == 2 and error.startswith("segdcn: error: "):
        return error.removeprefix("segdcn: error: ").removesuffix("\n")
    return f"exit code {code}\n{error}" if code or error else ""


def is_stopped(case: Case, message: str) -> bool:
    """Whether training stopped with one line that names the file, or went on if it can."""
    if not case.stops_training:
        return message == ""
    return case.named in message and "\n" not in message


def main() -> int:
    """Print what becomes of every case; the exit code is 1 if any is not as it should be."""
    with_fit = "--fit" in sys.argv[1:]
    columns = ["kind", "case", "data check", "0 workers", "2 workers", *(["segdcn fit"] if with_fit else [])]
    table, right = Table(*columns), True
    for case in track(CASES, "damaging"):
        if not case.applies:
            table.add_row(case.kind, case.name, *["root may read it"] * (len(columns) - 2))
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = make(case, Path(folder))
            found, messages = problems(path), [stop(path, 0), stop(path, 2)]
            if with_fit:
                command = [sys.executable, "-m", "segdcn", *fit_arguments(path, num_workers=2)]
                done = subprocess.run(command, capture_output=True, text=True)
                messages.append(one_line(done.returncode, done.stderr))
        verdicts = [is_found(case, found), *(is_stopped(case, message) for message in messages)]
        right &= all(verdicts)
        told = [case.found or "nothing", *["stops" if case.stops_training else "goes on"] * len(messages)]
        table.add_row(case.kind, case.name, *(t if ok else f"NOT {t}" for t, ok in zip(told, verdicts, strict=True)))
    Console(width=120).print(table)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
