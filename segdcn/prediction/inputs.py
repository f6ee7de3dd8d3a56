"""Which pictures are meant, and what their results are called."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError

# What counts as a picture in a folder; a file that is named is taken whatever its ending.
SUFFIXES = tuple(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm .jp2 .avif".split())


@dataclass(frozen=True)
class Source:
    """A picture.

    Attributes:
        path: Where it lies.
        name: What its results are called, below their folder and without an ending.
    """

    path: Path
    name: str


def find_pictures(inputs: Sequence[str], results: Sequence[Path]) -> list[Source]:
    """Find what files, folders and glob patterns name, each picture once.

    A folder gives all pictures in it and below, but for hidden ones. Results keep its structure: the
    name of a result is the picture's path below the folder, or below the part of a pattern that
    stands before the first wildcard; of a single file it is the name alone.

    Args:
        inputs: As the user gave them.
        results: Folders of results: pictures that a folder or a pattern finds in them are left out.

    Raises:
        MissingFileError: One of the inputs names nothing.
        UserValueError: Two pictures would give results of the same name, a name leads out of the folder, or
            an input is empty.
        InvalidDataError: A folder cannot be read.
    """
    skipped = {os.path.realpath(folder) for folder in results}
    found: dict[str, Source] = {}
    for given in inputs:
        for path, below in _named_by(given, skipped):
            source = Source(path, os.path.splitext(below)[0])
            other = found.setdefault(source.name, source)
            if os.path.realpath(other.path) != os.path.realpath(path):
                raise UserValueError(
                    f"the results of {other.path} and of {path} would have the same name, {source.name}: give the "
                    "folder that holds both, or label them one after the other with another --output"
                )
    return list(found.values())


def _named_by(given: str, skipped: set[str]) -> Iterator[tuple[Path, str]]:
    """Give each picture that one input names, and its path below the input."""
    if not given:  # a variable of the shell that is not set; to Path it is the folder one is in
        raise UserValueError("one of the inputs is empty; expected pictures, folders or glob patterns")
    path = Path(given)
    if path.is_dir():
        pictures = list(_below(path, skipped))
        if not pictures:
            raise MissingFileError(f"the folder {given} holds no pictures; their names end in {', '.join(SUFFIXES)}")
        yield from ((picture, os.path.relpath(picture, path)) for picture in pictures)
    elif os.path.lexists(path):  # that a link leads nowhere is said when it is read
        yield path, path.name
    elif glob.has_magic(given):
        parts = path.parts
        fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
        base = Path(*parts[:fixed])
        matches = [
            match
            for match in sorted(glob.glob(given, recursive=True))
            if not os.path.isdir(match) and not _lies_in(match, skipped)
        ]
        if not matches:
            raise MissingFileError(f"no file matches {given}")
        for match in matches:
            below = os.path.relpath(match, base)
            if below.startswith(os.pardir + os.sep):
                raise UserValueError(
                    f"{given} leads out of {base}, so that results have no place; leave '..' out of it"
                )
            yield Path(match), below
    else:
        raise MissingFileError(f"there is no {given}; expected pictures, folders or glob patterns such as 'a/*.jpg'")


def _lies_in(path: str, folders: set[str]) -> bool:
    """Whether a file lies in one of some real folders, or below."""
    where = Path(os.path.realpath(os.path.dirname(path)))
    return any(where.is_relative_to(folder) for folder in folders)


def _below(folder: Path, skipped: set[str]) -> Iterator[Path]:
    """Walk a folder in order of names, also through links to folders, each real folder once."""

    def refuse(error: OSError) -> None:
        raise InvalidDataError(f"the folder {error.filename} cannot be read ({error.strerror})") from error

    seen = set(skipped)
    for where, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(where)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield Path(where, name)
