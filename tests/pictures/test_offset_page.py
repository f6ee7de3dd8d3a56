"""The page of sampling points: what it holds, and that its JavaScript composes the points that Python does."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import segdcn.pictures
from segdcn.layers import DeformableConv2d
from segdcn.offsets import SamplingField, effective_dilation, output_pixel, record, trace
from segdcn.pictures.offset_page import offset_page, pack

SCRIPT = Path(segdcn.pictures.__file__).with_name("trace.js")


def run_node(program: str, given: object) -> object:
    """Run a JavaScript program with `given` and the functions of trace.js; it prints JSON."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    program = f"const t = require({json.dumps(str(SCRIPT))}); const given = {json.dumps(given)};\n{program}"
    done = subprocess.run([node, "-e", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def fields(as_packed) -> list[SamplingField]:
    """Three layers with random offsets and modulations, of awkward geometry, with a stride between them."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=4),
        DeformableConv2d(4, 4, (3, 2), padding=(1, 0), dilation=(2, 1)),
        nn.MaxPool2d(3, 2, 1),
        DeformableConv2d(4, 4, 3, padding=2, dilation=2, modulated=False),
        nn.BatchNorm2d(4),
        DeformableConv2d(4, 4, 3, padding=1),
    ).eval()
    for layer in network:
        if isinstance(layer, DeformableConv2d):
            nn.init.normal_(layer.offset_conv.weight, std=0.6)
    found = record(network, network, torch.randn(1, 3, 117, 90))
    rounded = as_packed(found)
    assert all((a.offset - b.offset).abs().max() <= 1 / 128 for a, b in zip(found, rounded, strict=True))
    return rounded


def test_javascript_composes_the_points_that_python_does(fields):
    """At every fifth output pixel, through one, two and three layers: places, weights, taps, and their order."""
    height, width = fields[-1].output_size
    pixels = [(row, column) for row in range(height) for column in range(width)][::5]
    found = run_node(
        """(async () => {
          const layers = await Promise.all(given.layers.map(t.unpackLayer));
          console.log(JSON.stringify(given.pixels.map(([row, column]) => [1, 2, 3].map(
            (depth) => t.trace(layers.slice(3 - depth), row, column).map((p) => [p.y, p.x, p.weight, p.tap])))));
        })();""",
        {"layers": [pack(field) for field in fields], "pixels": pixels},
    )
    most = 0
    for (row, column), by_depth in zip(pixels, found, strict=True):
        frame = fields[-1].output_frame
        place = (frame.start[0] + row * frame.stride[0], frame.start[1] + column * frame.stride[1])
        for depth, points in zip((1, 2, 3), by_depth, strict=True):
            expected = trace(fields[3 - depth :], place)
            expected = torch.stack([expected.y, expected.x, expected.weight, expected.tap], dim=1)
            assert torch.allclose(torch.tensor(points, dtype=torch.float64), expected, atol=1e-4)
            most = max(most, len(points))
    assert most > 400  # of 9 * 9 * 6


def test_javascript_finds_the_output_pixel_and_the_effective_dilation_that_python_does(fields):
    places = [(-40.0, 3.0), (0.0, 0.0), (37.2, 55.1), (80.9, 20.0), (500.0, 500.0)]
    for field in fields:  # halfway between two output pixels, one of an even and one of an odd number
        (top, left), (down, along) = field.output_frame.start, field.output_frame.stride
        places += [(top + half * down, left + half * along) for half in (0.5, 1.5, 2.5)]
    found = run_node(
        """(async () => {
          const layers = await Promise.all(given.layers.map(t.unpackLayer));
          console.log(JSON.stringify(layers.map((layer) => given.places.map(([y, x]) => {
            const { row, column } = t.outputPixel(layer, y, x);
            return [row, column, t.effectiveDilation(layer, row, column)];
          }))));
        })();""",
        {"layers": [pack(field) for field in fields], "places": places},
    )
    for field, rows in zip(fields, found, strict=True):
        dilation = effective_dilation(field)[0]
        for place, (row, column, value) in zip(places, rows, strict=True):
            assert (row, column) == output_pixel(field, place)
            assert value == pytest.approx(dilation[row, column].item(), abs=1e-5)


def test_the_page_is_one_file_that_fetches_nothing_and_holds_its_scripts_whole(fields):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (117, 90, 3), dtype=np.uint8)
    page = offset_page(
        "a < b & </script>",
        image,
        fields,
        rng.integers(0, 3, (117, 90)),
        ["sky", "</script><b>", "cat"],
        [(20.0, 30.0, "cat")],
    )
    assert "<title>a &lt; b &amp; &lt;/script&gt;</title>" in page
    assert page.count("</script>") == 2
    assert not re.search(r"(src|href)\s*=\s*[\"']|https?://|@import|fetch\(", page)
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    assert data["classes"][1] == "</script><b>" and (data["height"], data["width"]) == (117, 90)
    assert [layer["name"] for layer in data["layers"]] == ["1", "3", "5"]
    # What is left of the template's own dollars is JavaScript.
    scripts = re.findall(r"<script>\n(.*?)</script>", page, re.DOTALL)
    run_node("new Function(given.join('\\n')); console.log('1')", scripts)


def test_places_of_one_class_are_told_apart(fields):
    image, labels = np.zeros((117, 90, 3), np.uint8), np.zeros((117, 90))
    page = offset_page("cars", image, fields, labels, ["car"], [(20, 30.4, "car"), (1, 2, "sky"), (50, 60, "car")])
    data = json.loads(re.search(r"^const data = (.*);$", page, re.MULTILINE)[1])
    assert [place["name"] for place in data["places"]] == ["car 20,30", "sky", "car 50,60"]


def test_the_page_of_a_large_image_stays_small():
    """2048x1024 at output stride 16, three layers of smooth offsets and an image of noise-free colour."""
    torch.manual_seed(0)
    smooth = nn.functional.interpolate(torch.randn(1, 18, 9, 17), (64, 128), mode="bicubic")[0]
    layer = DeformableConv2d(1, 1, 3, padding=2, dilation=2)
    network = nn.Sequential(nn.AvgPool2d(16), layer)
    (field,) = record(network, network, torch.zeros(1, 1, 1024, 2048))
    field = replace(field, offset=smooth.unflatten(0, (1, 9, 2)), modulation=smooth[None, :9].sigmoid() * 2)
    image = np.zeros((1024, 2048, 3), np.uint8)
    page = offset_page("large", image, [field] * 3, np.zeros((1024, 2048)), ["road"], [(0.0, 0.0, "road")])
    assert len(page) < 2_000_000
