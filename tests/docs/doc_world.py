"""A folder in which the docs' commands find what they name, all of it small.

Pages keep the commands that users want; what makes them quick here is in `SETTINGS`, which the
copies of configs/ get, and in `REPLACED`.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import sbd
import yaml
from doc_blocks import ROOT
from PIL import Image

from segdcn import cli

# By files of configs/: settings that their copies get.
SMALL_DATA = {"batch_size": 2, "num_workers": 0, "crop_size": 64, "cache": None}
SETTINGS: dict[str, dict[str, Any]] = {
    "base.yaml": {
        "trainer": {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 2, "accelerator": "cpu"},
        "effective_dilation": {"images": 2},
        "pictures": {"count": 1},
        "wandb": "off",
    },
    "data/*.yaml": {"init_args": SMALL_DATA},
    "model/*.yaml": {"encoder": "resnet18", "encoder_weights": None, "deform_layers": 1},
    "recipe/*.yaml": {
        "data": {"init_args": SMALL_DATA},
        "model": {"output_stride": 16},
        "trainer": {"max_steps": 2},
    },
    "sweep/*.yaml": {"parameters": {"model.deform_layers": {"values": [0, 1]}, "trainer.max_epochs": {"value": 1}}},
}
# By page: what stands there, what is run instead, and why.
FEWER = "--train 4 --val 2 --size 64"
REPLACED = {
    "README.md": [
        ("--output datasets/shapes\n", f"--output datasets/made {FEWER}\n", "the set is there, and smaller"),
    ],
    "docs/data_sets.md": [
        ("benchmark data --data", "benchmark data --samples 4 --rounds 2 --workers 0 --data", "quicker"),
    ],
    "docs/evaluation.md": [
        ("configs/data/cityscapes.yaml", "configs/data/shapes.yaml", "the checkpoint here knows Shapes"),
        ("'[512, 1024]'", "'[64, 64]'", "pictures are small"),
        ("--data.test_split test", "--data.test_split val", "Shapes has no other split"),
    ],
    "docs/tutorials/compare.md": [
        ("--vary deform_layers=0,3 --seeds 3", "--vary deform_layers=0,1 --seeds 1", "two runs do"),
    ],
    "docs/tutorials/export.md": [
        ("--size 512 1024", "--size 64 64 --rounds 2", "quicker"),
        ("--exports onnx program", "--exports program", "the page has made an ONNX file before"),
    ],
    "docs/tutorials/predict.md": [
        ("photos 'clips/*/*.png'", "street/images 'datasets/shapes/JPEGImages/val*.png'", "the pictures that are here"),
    ],
    "docs/tutorials/train.md": [
        ("--model.encoder_weights imagenet", "--model.encoder_weights null", "would be downloaded")
    ],
    "docs/first_pictures.md": [("datasets/shapes --seed 1", f"datasets/made --seed 1 {FEWER}", "quicker")],
    "docs/tutorials/sweeps.md": [
        ("values: [0.1, 1.0]", "values: [0.1]", "two trials do"),
        ("value: 4", "value: 1", "one epoch does"),
    ],
    "docs/tutorials/operator.md": [
        ("segdcn benchmark ops", "segdcn benchmark ops --rounds 2 --sizes '[\"1,8,8,8,8,1\"]'", "one size does"),
    ],
}

RUNS = ("NAME/TIME", "street/2026-11-21_10-00-00", "quickstart-0/2026-11-22_18-00-00")
COMPOSED = ["--config", "configs/base.yaml", "--model", "configs/model/deeplabv3plus_r18_dcn.yaml"]


def make(folder: Path) -> None:
    """Fill a folder; it has to be the working directory."""
    _copy_configs(folder / "configs")
    _segdcn("data", "make-shapes", "--output", "datasets/shapes-0", "--train=6", "--val=4", "--size=64")
    shutil.copytree("datasets/shapes-0", "datasets/shapes")
    _street(folder)
    voc, benchmark = sbd.write(folder)
    for link, target in {"VOCdevkit/VOC2012": voc, "benchmark_RELEASE/dataset": benchmark}.items():
        (folder / link).parent.mkdir()
        (folder / link).symlink_to(target)
    _segdcn("fit", *COMPOSED, "--data", "configs/data/shapes.yaml", "--name", "trained")
    (trained,) = Path("runs/trained").iterdir()
    for run in RUNS:
        shutil.copytree(trained, folder / "runs" / run, copy_function=os.link)
    os.link(trained / "checkpoints" / "best.ckpt", folder / "best.ckpt")
    shutil.rmtree("runs/trained")


def _segdcn(*args: str) -> None:
    assert cli.main(args) == 0, args


def _copy_configs(target: Path) -> None:
    shutil.copytree(ROOT / "configs", target)
    for pattern, settings in SETTINGS.items():
        for path in target.glob(pattern):
            path.write_text(yaml.safe_dump(_merged(yaml.safe_load(path.read_text()), settings), sort_keys=False))


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {key: _merged(old[key], new[key]) for key in old.keys() & new.keys() if isinstance(new[key], dict)}
    return {**old, **new, **both}


def _street(folder: Path) -> None:
    """Draw a street: pictures with labels of three classes, and one picture alone."""
    sources = sorted(Path("datasets/shapes/JPEGImages").glob("*.png"))
    for split, pictures in {"train": sources[:4], "val": sources[4:6]}.items():
        for kind in ("images", "labels"):
            (folder / "street" / kind / split).mkdir(parents=True)
        for path in pictures:
            Image.open(path).save(folder / "street/images" / split / f"{path.stem}.jpg")
            ids = np.asarray(Image.open(path.parents[1] / "SegmentationClass" / path.name))
            Image.fromarray(np.where(ids > 0, ids % 3, ids)).save(folder / "street/labels" / split / f"{path.stem}.png")
    Image.open(sources[0]).resize((480, 360)).save(folder / "street.jpg")
