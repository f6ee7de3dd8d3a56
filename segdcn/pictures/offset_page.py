"""A page, in one file, on which one moves the pointer over an image and sees what deformable layers read there."""

import base64
import gzip
import html
import io
import json
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from segdcn.offsets import Frame, SamplingField
from segdcn.pictures.offsets import CHAIN, TAP_COLOURS

# How numbers are packed; trace.js knows both. Offsets are off by up to 1/128 of a pixel of the layer's input.
OFFSET_STEPS = 64  # per pixel, in int16
MODULATION_STEPS = 120  # per 1, in uint8: 1 and 2 are exact


def offset_page(
    title: str,
    image: np.ndarray,
    fields: Sequence[SamplingField],
    prediction: np.ndarray,
    class_names: Sequence[str],
    places: Sequence[tuple[float, float, str]],
    group: int = 0,
) -> str:
    """Make the page; it needs no other file and no network.

    The page holds the offsets of the last three deformable layers and composes the points with
    the same arithmetic as `segdcn.offsets.trace`.

    Args:
        title: Heading.
        image: Pixels (H, W, 3) uint8.
        fields: The layers', in running order.
        prediction: Class indices (H, W).
        class_names: N names.
        places: (y, x, name) of places to jump to; the page opens at the first.
        group: Offset group to show.
    """
    last = fields[-1]
    rows, columns = (np.arange(length) for length in last.output_size)
    (top, left), (down, along) = last.output_frame.start, last.output_frame.stride
    y = np.rint(top + rows * down).astype(int).clip(0, prediction.shape[0] - 1)
    x = np.rint(left + columns * along).astype(int).clip(0, prediction.shape[1] - 1)
    data = {
        "image": _jpeg(image),
        "height": image.shape[0],
        "width": image.shape[1],
        "layers": [pack(field, group) for field in fields[-CHAIN:]],
        "classes": list(class_names),
        "prediction": _packed(prediction[np.ix_(y, x)].astype(np.uint8)),
        "places": [{"y": y, "x": x, "name": name} for (y, x, _), name in zip(places, _told_apart(places), strict=True)],
    }
    template = Template(_text("offset_page.html"))
    return template.substitute(
        TITLE=html.escape(title),
        TRACE=_text("trace.js"),
        DATA=json.dumps(data).replace("<", "\\u003c"),  # a class called </script> must not end the script
        COLOURS=json.dumps(TAP_COLOURS.tolist()),
    )


def _told_apart(places: Sequence[tuple[float, float, str]]) -> list[str]:
    """Name the places, with where they are if others are called the same."""
    names = [name for _, _, name in places]
    return [name if names.count(name) == 1 else f"{name} {y:.0f},{x:.0f}" for y, x, name in places]


def pack(field: SamplingField, group: int = 0) -> dict[str, Any]:
    """Turn one offset group of a field into what `unpackLayer` of trace.js takes."""
    offset = (field.offset[group].double().numpy() * OFFSET_STEPS).round()
    modulation = (field.modulation[group].double().numpy() * MODULATION_STEPS).round()
    limits = np.iinfo(np.int16)
    return {
        "name": field.name,
        "kernel": field.kernel_size,
        "stride": field.stride,
        "padding": field.padding,
        "dilation": field.dilation,
        "size": field.output_size,
        "input": _frame(field.input_frame),
        "output": _frame(field.output_frame),
        "offset": _packed(offset.clip(limits.min, limits.max).astype("<i2")),
        "modulation": _packed(modulation.clip(0, 255).astype(np.uint8)),
    }


def _frame(frame: Frame) -> dict[str, Any]:
    return {"stride": frame.stride, "start": frame.start}


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(values.tobytes(), mtime=0)).decode()


def _jpeg(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _text(name: str) -> str:
    return resources.files("segdcn.pictures").joinpath(name).read_text(encoding="utf-8")
