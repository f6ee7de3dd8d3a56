"""What is written about a picture: each file whole or not at all, and nothing outside one folder."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from segdcn.data.files import write_id_map
from segdcn.errors import UserValueError
from segdcn.pictures.overlay import legend, overlay, spread_colours
from segdcn.prediction.inputs import Source

LABELS, OVERLAYS, PROBABILITIES, LEGEND = "labels", "overlays", "probabilities", "legend.png"
ENDINGS = {LABELS: ".png", OVERLAYS: ".jpg", PROBABILITIES: ".npy"}
LONGEST_JPEG = 65500  # pixels of a side, in the library that all programs write JPEGs with


class Results:
    """The folder of results.

        labels/<name>.png           class ids, with the classes' colours as palette
        overlays/<name>.jpg         the picture with its labels laid over it
        overlays/legend.png         which colour is which class
        probabilities/<name>.npy    (N, H, W) float16

    Args:
        folder: Where they go.
        class_names: N names.
        palette: N colours [r, g, b]; None takes colours that are far apart.
        overlays: Write them.
        probabilities: Write them.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        palette: Sequence[Sequence[int]] | None,
        overlays: bool,
        probabilities: bool,
    ) -> None:
        self.folder, self.class_names = folder, class_names
        self.palette = palette or spread_colours(len(class_names))
        self.kinds = [LABELS, *[OVERLAYS] * overlays, *[PROBABILITIES] * probabilities]

    def path(self, kind: str, name: str) -> Path:
        """Where a result goes."""
        return self.folder / kind / f"{name}{ENDINGS[kind]}"

    @property
    def legend_path(self) -> Path:
        """Where the legend goes: into a folder of results, where it is not taken for a picture to label."""
        return self.folder / OVERLAYS / LEGEND

    def make_folder(self) -> None:
        """Make the folder, and write the legend.

        Raises:
            UserValueError: It cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if OVERLAYS in self.kinds:
                with _whole(self.legend_path) as part:
                    legend(self.palette, self.class_names).save(part)
        except OSError as error:
            raise UserValueError(f"output {self.folder} cannot be written ({error.strerror})") from error

    def write(self, name: str, picture: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None) -> None:
        """Write all results of a picture; its labels come last, so that where they are, all are.

        Args:
            name: Of the `Source`.
            picture: (H, W, 3) uint8 RGB.
            labels: (H, W) class ids.
            probabilities: (N, H, W) float16, if they are wanted.

        Raises:
            UserValueError: The overlay would be larger than a JPEG can be.
            OSError: A file cannot be written.
        """
        if OVERLAYS in self.kinds:
            if max(labels.shape) > LONGEST_JPEG:
                height, width = labels.shape
                raise UserValueError(
                    f"its overlay would be {height}x{width} (height x width), but a JPEG has sides of at most "
                    f"{LONGEST_JPEG}; pass --overlays false"
                )
            with _whole(self.path(OVERLAYS, name)) as part:
                Image.fromarray(overlay(picture, labels, self.palette)).save(part, quality=90)
        if probabilities is not None:
            with _whole(self.path(PROBABILITIES, name)) as part:
                np.save(part, probabilities)
        with _whole(self.path(LABELS, name)) as part:
            # A palette has 256 colours; more classes than that are 16-bit grey.
            write_id_map(part, labels, self.palette if labels.dtype == np.uint8 else None)


def check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that holds something, or that cannot be made.

    Raises:
        UserValueError: The message says why.
    """
    above = folder
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "not a folder" if not above.is_dir() else "a folder that cannot be written to"
        raise UserValueError(f"output is {folder}, but {above} is {what}; choose another --output")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserValueError(f"output {folder} is not empty; choose another folder, or pass --overwrite")


def check_places(results: Results, sources: Sequence[Source]) -> None:
    """Refuse results that a link would lead out of the folder, or that would replace a folder or a picture to label.

    Raises:
        UserValueError: One of them would.
    """
    inside = results.folder.resolve()
    pictures = {os.path.realpath(source.path) for source in sources}
    paths = [results.path(kind, source.name) for kind in results.kinds for source in sources]
    paths += [results.legend_path] * (OVERLAYS in results.kinds)
    folders = {parent for path in paths for parent in path.parents}
    for folder in sorted({path.parent for path in paths}):
        if not folder.resolve().is_relative_to(inside):
            raise UserValueError(f"{folder} is a link that leads out of {results.folder}; remove it")
    for path in paths:
        if os.path.realpath(path) in pictures:
            raise UserValueError(f"{path} would be written, but is one of the pictures; choose another --output")
        if path in folders or path.is_dir():  # a.jpg beside a folder a.png
            raise UserValueError(f"{path} would be a file of results, but is or will be a folder; rename the picture")


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; what was written gets its own name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not made from the file's own name, which may be as long as a name can be.
    part = path.with_name(f".segdcn-{secrets.token_hex(8)}{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
