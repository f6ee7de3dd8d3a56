"""What a run leaves for Weights & Biases, read back record by record from the file that `wandb sync` uploads."""

import json
import struct
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from segdcn import __version__, cli
from segdcn.data import Shapes
from segdcn.wandb_pictures import Overlay

SIDE = 24  # of the pictures on W&B; those of the set have 32
CLASSES = ["background", *Shapes.class_names[1:]]


def records(path) -> Iterator[Record]:
    """Read a .wandb file: a head of 7 bytes, then a LevelDB log of protobuf records."""
    data, place, record = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:  # the end of a block is padded
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


def rows(folder) -> list[dict]:
    """Give the history of a run's folder: a row for each call of `log`."""
    (path,) = folder.glob("*.wandb")
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def media(found, key, rank=0):
    """Give the records of pictures under a key, in the order in which they were logged."""
    return [row[key] for row in found if key in row][rank:]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, request):
    """A run of two epochs that went on for a third; where it lies."""
    folder = tmp_path_factory.mktemp("wandb")
    assert cli.main(["data", "make-shapes", f"--output={folder}/set", "--train=4", "--val=5", "--size=32"]) == 0
    configs = request.config.rootpath / "configs"
    files = [f"--config={configs}/base.yaml", f"--data={configs}/data/shapes.yaml"]
    network = ["--model.architecture=deeplab", "--model.encoder=resnet18", "--model.deform_layers=1"]
    learning = ["--model.lr=0.05", "--model.offset_lr_scale=0.1", "--model.ema_decay=0.5"]
    data = [f"--data.root={folder}/set", "--data.batch_size=2", "--data.num_workers=0", "--data.crop_size=32"]
    shown = ["--pictures.count=2", f"--pictures.max_side={SIDE}", "--pictures.max_share=1"]
    mine = ["--name=tried", "--wandb_checkpoint=best", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    health = ["--offset_health.every_n_steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_DATA_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(folder / "no-netrc"))
        fit = ["fit", *files, *network, *learning, *data, *shown, *mine, *health]
        assert cli.main([*fit, "--trainer.max_epochs=2"]) == 0
        assert cli.main([*fit, "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0
    return folder


@pytest.fixture(scope="module")
def run(workplace):
    (folder,) = (workplace / "runs" / "tried").iterdir()
    return folder


@pytest.fixture(scope="module")
def parts(run):
    """The folders of the run's two parts, the older first."""
    found = sorted(run.glob("wandb/offline-run-*"))
    assert len(found) == 2
    return found


def test_print(parts, run):
    for part in parts:
        (path,) = part.glob("*.wandb")
        for r in records(path):
            k = r.WhichOneof("record_type")
            print(k, str(r)[:600] if k not in ("history",) else "")
        for row in rows(part):
            print(json.dumps(row)[:1500])
    print(sorted(str(p.relative_to(run)) for p in run.rglob("*")))
    assert 0
