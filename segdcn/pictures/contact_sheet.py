"""A page of pictures with labels laid over them: one HTML file that needs nothing else."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np
from PIL import Image

from segdcn.pictures.offsets import choose_places
from segdcn.pictures.segmentation import IGNORED

IGNORE_INDEX = 255
LONGER_SIDE = 480  # pixels of a tile; a page of four columns shows it about 300 wide
REGION, BORDER = 120, 255  # opacities, of 255
HATCH = (90, 90, 90, 150)  # RGBA of the lines over ignored pixels
NAMED_SHARE = 0.02  # of a tile; regions of smaller classes get no name written in
LETTER, SHOWN = 6.6, 260  # widths in pixels of a letter, and of a tile at the least, to keep names apart

STYLE = """
body{margin:0;background:#eceff1;color:#1c2429;font:14px/1.4 system-ui,sans-serif}
header{position:sticky;top:0;z-index:1;background:#fff;padding:12px 20px;box-shadow:0 1px 4px #0003}
h1{font-size:18px;margin:0}p{margin:2px 0 8px;color:#546e7a}label{color:#546e7a}input{vertical-align:middle}
main{display:grid;gap:16px;padding:20px;align-items:start;overflow-x:auto}
figure{margin:0;background:#fff;border-radius:6px;overflow:hidden;box-shadow:0 1px 3px #0002}
.picture,.labels{position:relative}.labels{position:absolute;inset:0;opacity:var(--labels,1)}
.picture:hover .labels{opacity:0}img{display:block;width:100%;height:100%}
.labels img{position:absolute}
b{position:absolute;transform:translate(-50%,-50%);padding:0 4px;border-radius:3px;background:#000a;color:#fff;
font:600 11px/16px system-ui,sans-serif;white-space:nowrap}
figcaption{padding:8px 10px}figcaption div{font-weight:600;overflow-wrap:anywhere}
.chip{display:inline-block;margin-right:10px;white-space:nowrap;font-size:12px}
i{display:inline-block;width:11px;height:11px;margin-right:4px;border:1px solid #0006;border-radius:2px}
i{vertical-align:-1px}.clear{background:none;border-style:dashed}
.ignored{background:repeating-linear-gradient(135deg,#5a5a5a 0 2px,#ebebeb 2px 5px)}
"""


@dataclass(frozen=True)
class Tile:
    """One picture.

    Attributes:
        title: What it is, such as its name and size.
        image: Pixels (H, W, 3) uint8.
        labels: Class indices (H, W) uint8, 255 where nothing counts.
    """

    title: str
    image: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Classes:
    """What labels mean and how they are shown.

    Attributes:
        names: N names; a class called background is left transparent.
        palette: N colours [r, g, b].
    """

    names: Sequence[str]
    palette: Sequence[Sequence[int]]

    @property
    def clear(self) -> int | None:
        """The class that is not painted."""
        return list(self.names).index("background") if "background" in self.names else None


def overlay(labels: np.ndarray, classes: Classes) -> np.ndarray:
    """Paint labels to lay over a picture: regions half transparent, with opaque borders.

    Args:
        labels: Class indices (H, W) uint8; 255 is hatched in grey.
        classes: Whose colours.

    Returns:
        RGBA (H, W, 4) uint8.
    """
    table = np.zeros((256, 4), np.uint8)
    table[: len(classes.palette), :3] = classes.palette
    table[: len(classes.palette), 3] = REGION
    if classes.clear is not None:
        table[classes.clear] = 0
    table[IGNORE_INDEX] = (*IGNORED, REGION)
    painted = table[labels]
    # A pixel lies on a border if the smallest and the largest label around it differ.
    around = np.ones((3, 3), np.uint8)
    border = cv2.erode(labels, around) != cv2.dilate(labels, around)
    painted[border & (painted[..., 3] > 0), 3] = BORDER
    rows, columns = np.indices(labels.shape)
    painted[(labels == IGNORE_INDEX) & ((rows + columns) % 9 < 2)] = HATCH
    return painted


def contact_sheet(title: str, subtitle: str, tiles: Sequence[Tile], columns: int, classes: Classes) -> str:
    """Write the page as HTML.

    Large regions carry their class's name and every tile lists its classes by share, so that
    nobody has to tell colours apart. A slider fades the labels; pointing at a tile hides them.

    Args:
        title: Heading.
        subtitle: What was done to the pictures.
        tiles: From left to right, then from top to bottom.
        columns: Tiles in a row.
        classes: What the labels mean.
    """
    legend = "".join(_chip(index, name, classes) for index, name in enumerate(classes.names))
    fade = "document.documentElement.style.setProperty('--labels',this.value/100)"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>
<body><header><h1>{escape(title)}</h1><p>{escape(subtitle)}.</p>
<p><label>Labels <input type="range" min="0" max="100" value="100" oninput="{fade}"></label></p>
<div>{legend}{_chip(IGNORE_INDEX, "ignored", classes)}</div></header>
<main style="grid-template-columns:repeat({columns},minmax({SHOWN}px,1fr))">
{"".join(_figure(tile, classes) for tile in tiles)}</main></body></html>
"""


def _figure(tile: Tile, classes: Classes) -> str:
    height, width = tile.labels.shape
    scale = LONGER_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # Small pictures are enlarged here: a border of one pixel would become as wide as the enlargement.
    image = cv2.resize(tile.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    labels = cv2.resize(tile.labels, size, interpolation=cv2.INTER_NEAREST_EXACT)

    shares = np.bincount(tile.labels.ravel(), minlength=256) / tile.labels.size
    present = [index for index in np.argsort(-shares, kind="stable").tolist() if shares[index]]
    named = ["ignored" if index == IGNORE_INDEX else classes.names[index] for index in present]
    told = [f"{shares[index]:.1%}" if shares[index] >= 0.0005 else "< 0.1%" for index in present]
    chips = "".join(
        _chip(index, f"{name} {share}", classes) for index, name, share in zip(present, named, told, strict=True)
    )
    names = "".join(
        f'<b style="left:{x:.1%};top:{y:.1%}">{escape(name)}</b>' for x, y, name in _names(labels, shares, classes)
    )
    return f"""<figure><div class="picture" style="aspect-ratio:{size[0]}/{size[1]}">
<img alt="" src="{_data_uri(image, "jpeg", quality=82)}">
<div class="labels"><img alt="" src="{_data_uri(overlay(labels, classes), "png")}">{names}</div></div>
<figcaption><div>{escape(tile.title)}</div>{chips}</figcaption></figure>
"""


def _names(labels: np.ndarray, shares: np.ndarray, classes: Classes) -> list[tuple[float, float, str]]:
    """Place names inside the largest regions, none over another: (x, y, name), in shares of width and height."""
    height, width = labels.shape
    placed: list[tuple[float, float, str]] = []
    for y, x, index in choose_places(labels, count=len(classes.names)):
        if index == classes.clear or shares[index] < NAMED_SHARE:
            continue
        half = _half_width(classes.names[index])
        at_x, at_y = (min(max((x + 0.5) / width, half), 1 - half), (y + 0.5) / height)
        line = 18 / SHOWN * width / height
        if half < 0.5 and all(
            abs(at_y - other_y) > line or abs(at_x - other_x) > half + _half_width(other)
            for other_x, other_y, other in placed
        ):
            placed.append((at_x, min(max(at_y, line / 2), 1 - line / 2), classes.names[index]))
    return placed


def _half_width(name: str) -> float:
    """Half of a written name's width, as a share of the tile's."""
    return (len(name) * LETTER + 10) / 2 / SHOWN


def _chip(index: int, text: str, classes: Classes) -> str:
    """A swatch and a text."""
    if index == IGNORE_INDEX:
        look = 'class="ignored"'
    elif index == classes.clear:
        look = 'class="clear"'
    else:
        look = 'style="background:#{:02x}{:02x}{:02x}"'.format(*classes.palette[index])
    return f'<span class="chip"><i {look}></i>{escape(text)}</span> '


def _data_uri(pixels: np.ndarray, kind: str, **settings: int) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind.upper(), **settings)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
