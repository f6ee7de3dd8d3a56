"""A real VOC tree where there is one, and tiny sets made for the occasion."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdcn.data import shapes


@pytest.fixture(scope="session")
def voc_root() -> Path:
    project = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("SEGDCN_TEST_DATA", project.parent / "shared" / "data"))
    root = folder / "VOCdevkit" / "VOC2012"
    if not root.is_dir():
        pytest.skip(f"no real data: {root} does not exist (set SEGDCN_TEST_DATA)")
    return root


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory) -> Path:
    """24 training and 6 validation pictures of 64x64 pixels; read only."""
    root = tmp_path_factory.mktemp("shapes")
    shapes.make(root, train=24, val=6, size=64)
    return root


@pytest.fixture
def tiny_voc(tmp_path):
    """A tree in VOC's layout with pictures a (30x40), b (50x20) and c (30x40), to be spoilt by tests."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, (height, width) in {"a": (30, 40), "b": (50, 20), "c": (30, 40)}.items():
        image = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "JPEGImages" / f"{name}.jpg")
        labels = np.zeros((height, width), np.uint8)
        labels[5:15, 5:15] = 20
        labels[0] = 255
        Image.fromarray(labels).save(tmp_path / "SegmentationClass" / f"{name}.png")
    (tmp_path / "ImageSets" / "Segmentation" / "train.txt").write_text("a\nb\nc\n")
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("a\nb\n")
    return tmp_path
