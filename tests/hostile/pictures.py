"""Pictures that are none, and where they can be given: to `offsets` and `export`."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from attempt import Mutation
from PIL import Image

CHECKPOINT = "runs/tried/2026-01-01_00-00-00/checkpoints/best.ckpt"
VERBS = {
    "offsets": ["offsets", CHECKPOINT, "bad.png", "--output=out"],
    "export": ["export", CHECKPOINT, "--format=safetensors", "--output=out", "--image=bad.png"],
}


def encoded(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB") -> bytes:
    stored = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(stored, kind)
    return stored.getvalue()


def png(width: int, height: int, pixels: bytes = b"", depth: int = 8, kind: int = 2) -> bytes:
    """A PNG whose header says what one likes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def cut(kind: str) -> Callable[[Random], bytes]:
    def make(rng: Random) -> bytes:
        whole = encoded(kind)
        return whole[: rng.randint(1, len(whole) * 9 // 10)]

    return make


def flipped(kind: str) -> Callable[[Random], bytes]:
    """Change some bytes of the header, where no pixel hides them."""

    def make(rng: Random) -> bytes:
        whole = bytearray(encoded(kind))
        for _ in range(3):
            whole[rng.randrange(0, 12)] ^= rng.randint(1, 255)
        return bytes(whole)

    return make


CONTENTS: dict[str, bytes | Callable[[Random], bytes]] = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"not a picture\n",
    "random bytes": lambda rng: rng.randbytes(5000),
    "HTML": b"<!DOCTYPE html><title>403</title>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "a zip": b"PK\x03\x04" + bytes(40),
    "PNG of no width": png(0, 10),
    "PNG of no height": png(10, 0),
    "PNG of no size": png(0, 0),
    "PNG larger than memory": png(60000, 60000),
    "PNG of 2^31 columns": png(2**31 - 1, 1),
    "PNG with pixels for one row of many": png(64, 64, bytes(100)),
    "decompression bomb": png(30000, 30000, bytes(90_000_000)),
    "PNG of an unknown depth": png(8, 8, bytes(200), depth=7),
    "PNG of an unknown kind": png(8, 8, bytes(200), kind=9),
    "PNG of 16 bits": png(4, 4, bytes(36), depth=16, kind=0),
    "TIFF of floats": lambda rng: encoded("TIFF", mode="F"),
    "TIFF of 32 bits": lambda rng: encoded("TIFF", mode="I"),
    **{f"{kind} cut short": cut(kind) for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")},
    **{f"{kind} with a changed header": flipped(kind) for kind in ("PNG", "JPEG", "GIF")},
}


def contents() -> Iterator[Mutation]:
    for name, content in CONTENTS.items():
        for verb, line in VERBS.items():

            def make(
                folder: Path, rng: Random, content: bytes | Callable[[Random], bytes] = content, line: list[str] = line
            ) -> list[str]:
                (folder / "bad.png").write_bytes(content if isinstance(content, bytes) else content(rng))
                return line

            yield Mutation(f"{verb}: {name}", make)


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _long_loop(path: Path) -> None:
    path.with_name("other.png").symlink_to(path.name)
    path.symlink_to("other.png")


PLACES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": _loop,
    "two links in a circle": _long_loop,
    "a link below a file": lambda path: path.symlink_to("base.yaml/x"),
    "forbidden": lambda path: (path.write_bytes(encoded("PNG")), path.chmod(0)),
}


def places() -> Iterator[Mutation]:
    for name, put in PLACES.items():
        for verb, line in VERBS.items():

            def make(folder: Path, rng: Random, put: Callable = put, line: list[str] = line) -> list[str]:
                put(folder / "bad.png")
                return line

            yield Mutation(f"{verb}: {name}", make)


CATEGORIES = {"pictures": contents, "what is not a file": places}
