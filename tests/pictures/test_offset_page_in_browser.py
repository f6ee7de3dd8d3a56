"""The page of sampling points in a real browser without a window: pointer, keys, buttons, and what is drawn."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.offsets import output_pixel, record, trace
from segdcn.pictures.offset_page import offset_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or chrome")
HEIGHT, WIDTH = 96, 128

# Does what a user does, and writes what the page then says.
USER = """
<script>
"use strict";
window.addEventListener("error", (event) => { document.title = `error: ${event.message}`; });
(async () => {
  const facts = () => Object.fromEntries([...document.querySelectorAll("#facts tr")].map(
    (row) => [row.cells[0].textContent, row.cells[1].textContent]));
  while (!("points" in facts())) await new Promise((done) => setTimeout(done, 20));
  const canvas = document.getElementById("view"), box = canvas.getBoundingClientRect();
  const margin = MARGIN * Math.max(data.width, data.height), scale = box.width / (data.width + 2 * margin);
  const at = (y, x) => [box.left + (x + 0.5 + margin) * scale, box.top + (y + 0.5 + margin) * scale];
  const reddest = () => {
    const { data: bytes } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let rows = 0, columns = 0, found = 0;
    for (let place = 0; place < bytes.length; place += 4)
      if (bytes[place] > 190 && bytes[place + 1] < 30 && bytes[place + 2] < 60) {
        found += 1; rows += Math.floor(place / 4 / canvas.width); columns += (place / 4) % canvas.width;
      }
    const unit = canvas.width / box.width; // pixels of the canvas per pixel of the page
    return [rows / found / unit / scale - margin - 0.5, columns / found / unit / scale - margin - 0.5];
  };
  const seen = { first: facts(), moves: [], keys: {} };
  for (const [y, x] of PLACES) {
    const [clientX, clientY] = at(y, x);
    canvas.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY, bubbles: true }));
    seen.moves.push({ facts: facts(), cross: reddest() });
  }
  for (const key of ["1", "2", "ArrowRight", "ArrowUp"]) {
    document.dispatchEvent(new KeyboardEvent("keydown", { key }));
    seen.keys[key] = facts();
  }
  document.querySelectorAll("#depths button")[2].click();
  seen.button = facts();
  seen.pressed = [...document.querySelectorAll("#depths button")].map((each) => each.getAttribute("aria-pressed"));
  document.querySelector("#places button").click();
  seen.place = facts();
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
})();
</script>
</body>
"""
PLACES = [(40.0, 64.0), (0.0, 0.0), (95.0, 127.0), (17.0, 101.0)]


@pytest.fixture(scope="module")
def fields(as_packed):
    torch.manual_seed(5)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8, padding=1),
        *(DeformableConv2d(4, 4, 3, padding=2, dilation=2) for _ in range(3)),
    ).eval()
    for layer in network[1:]:
        nn.init.normal_(layer.offset_conv.weight, std=0.5)
    return as_packed(record(network, network, torch.randn(1, 3, HEIGHT, WIDTH)))


def shown_by_browser(page, folder):
    """Give what a page has become when its scripts have run."""
    (folder / "page.html").write_text(page)
    done = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,800"),
            *("--virtual-time-budget=20000", f"--user-data-dir={folder / 'user'}", "--dump-dom"),
            (folder / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def seen(fields, tmp_path_factory):
    """What the browser's user saw."""
    rng = np.random.default_rng(0)
    # Grey, so that the cross is all that is red.
    image = np.repeat(rng.integers(60, 200, (HEIGHT, WIDTH, 1), dtype=np.uint8), 3, axis=2)
    prediction = np.add.outer(np.arange(HEIGHT) // 48, np.arange(WIDTH) // 64) % 3
    page = offset_page("tried", image, fields, prediction, ["sky", "road", "tree"], [(21.0, 30.0, "a place")])
    page = page.replace("</body>", USER.replace("PLACES", json.dumps(PLACES)))
    shown = shown_by_browser(page, tmp_path_factory.mktemp("page"))
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown, re.DOTALL)
    assert found, re.search(r"<title>.*?</title>", shown)
    return json.loads(html.unescape(found[1]))


def points(fields, place, depth):
    return len(trace(fields[len(fields) - depth :], place).y)


def centre(field, row, column):
    """The place in the image of an output pixel's centre."""
    frame = field.output_frame
    return (frame.start[0] + row * frame.stride[0], frame.start[1] + column * frame.stride[1])


def told(place):
    """A place as the page writes it."""
    return "{}, {}".format(*(int(value + 0.5) for value in place))


def test_dots_follow_the_pointer(fields, seen):
    last = fields[-1]
    for place, move in zip(PLACES, seen["moves"], strict=True):
        expected = centre(last, *output_pixel(last, place))
        assert move["facts"]["place (y, x)"] == told(expected)
        assert move["facts"]["points"] == f"{points(fields, expected, 3)} of 729"
        # Dots cover parts of the red square, which moves the mean; the next output pixel is 8 pixels away.
        assert move["cross"] == pytest.approx(expected, abs=3)


def test_keys_and_buttons_choose_layers_and_places(fields, seen):
    last, (row, column) = fields[-1], output_pixel(fields[-1], PLACES[-1])
    keys = seen["keys"]
    assert seen["first"]["points"].endswith(" of 729")
    assert keys["1"]["points"] == f"{points(fields, centre(last, row, column), 1)} of 9"
    assert keys["2"]["points"] == f"{points(fields, centre(last, row, column), 2)} of 81"
    right, up = centre(last, row, column + 1), centre(last, row - 1, column + 1)
    assert keys["ArrowRight"]["place (y, x)"] == told(right)
    assert keys["ArrowUp"]["place (y, x)"] == told(up)
    assert seen["button"]["points"].endswith(" of 729") and seen["pressed"] == ["false", "false", "true"]
    assert seen["place"]["place (y, x)"] == told(centre(last, *output_pixel(last, (21.0, 30.0))))
    assert seen["place"]["predicted"] == "sky"


def test_a_browser_that_is_too_old_is_told_so(fields, tmp_path):
    grey, nothing = np.full((HEIGHT, WIDTH, 3), 99, np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    page = offset_page("old", grey, fields, nothing, ["sky"], [(0.0, 0.0, "sky")])
    shown = shown_by_browser(page.replace("<script>", "<script>delete window.DecompressionStream;", 1), tmp_path)
    assert re.search(r'<p id="failed">This page needs a browser of 2023 or later \(DecompressionStream', shown)
    assert "<canvas" not in shown
