"""What a run leaves for Weights & Biases, read back record by record from the file that `wandb sync` uploads."""

import csv
import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

import segdcn
from segdcn import __version__, cli
from segdcn.data import Shapes
from segdcn.wandb_pictures import Overlay

SIDE = 24  # of the pictures on W&B; those of the set have 32


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


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, request):
    """A run of one epoch that went on for another; where it lies."""
    folder = tmp_path_factory.mktemp("wandb")
    assert cli.main(["data", "make-shapes", f"--output={folder}/set", "--train=4", "--val=5", "--size=32"]) == 0
    configs = request.config.rootpath / "configs"
    files = [f"--config={configs}/base.yaml", f"--data={configs}/data/shapes.yaml"]
    network = ["--model.architecture=deeplab", "--model.encoder=resnet18", "--model.deform_layers=1"]
    learning = ["--model.lr=0.05", "--model.offset_lr_scale=0.1", "--model.ema_decay=0.5"]
    data = [f"--data.root={folder}/set", "--data.batch_size=2", "--data.num_workers=0", "--data.crop_size=32"]
    shown = ["--pictures.count=2", f"--pictures.max_side={SIDE}", "--pictures.max_share=1"]
    mine = ["--name=tried", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    health = ["--offset_health.every_n_steps=2"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_DATA_DIR"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(folder / "no-netrc"))
        fit = ["fit", *files, *network, *learning, *data, *shown, *mine, *health]
        assert cli.main([*fit, "--trainer.max_epochs=1"]) == 0
        assert cli.main([*fit, "--trainer.max_epochs=2", "--ckpt_path=last", "--wandb_checkpoint=best"]) == 0
    yield folder
    shutil.rmtree(folder)  # 400 MB of checkpoints


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


def kind(path, name) -> list:
    """Give the records of one kind."""
    return [getattr(record, name) for record in records(path) if record.WhichOneof("record_type") == name]


def summary(folder) -> dict:
    """Give what a run's page shows as its summary: the last update of each key."""
    (path,) = folder.glob("*.wandb")
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json)
        for update in kind(path, "summary")
        for item in update.update
    }


def with_key(found, key) -> list[dict]:
    return [row for row in found if any(name.startswith(key) for name in row)]


def test_scalars_are_those_of_the_table(parts, run):
    with (run / "metrics.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    history = [row for part in parts for row in rows(part)]
    for key in ("train/loss", "val/mIoU", "val/loss", "val/IoU/background", "offsets/grad_norm"):
        found = [(row["trainer/global_step"], row[key]) for row in history if key in row]
        expected = [(int(row["step"]), float(row[key])) for row in table if row[key]]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected] and expected


def test_the_second_part_goes_on_with_the_id_and_the_x_axis(parts, run):
    names, steps = [], []
    for part in parts:
        (path,) = part.glob("*.wandb")
        (started,) = kind(path, "run")
        names.append((started.run_id, started.project, started.display_name))
        steps.append([row["trainer/global_step"] for row in rows(part)])
        axes = {(metric.name or metric.glob_name): metric for metric in kind(path, "metric")}
        assert axes["*"].step_metric == axes["val/mIoU"].step_metric == "trainer/global_step"
    assert names[0] == names[1] and names[0][1:] == ("segdcn", f"tried/{run.name}")
    assert sorted(steps[0]) == steps[0] and sorted(steps[1]) == steps[1]
    assert (steps[0][0], steps[0][-1], steps[1][0], steps[1][-1]) == (0, 1, 2, 3)
    last = torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    assert last["segdcn"]["wandb_id"] == names[0][0]


def test_the_summary_of_miou_is_its_maximum(parts, run):
    (path,) = parts[0].glob("*.wandb")
    (metric,) = [metric for metric in kind(path, "metric") if metric.name == "val/mIoU"]
    assert metric.summary.max
    assert summary(parts[0])["val/mIoU"] == {
        "max": max(row["val/mIoU"] for row in with_key(rows(parts[0]), "val/mIoU"))
    }


def test_the_config_is_the_whole_resolved_one_with_the_code(parts, run):
    for part, file in zip(parts, ("config.yaml", "config_resumed_1.yaml"), strict=True):
        (path,) = part.glob("*.wandb")
        (started,) = kind(path, "run")
        sent = {update.key: json.loads(update.value_json) for update in started.config.update}
        written = yaml.safe_load((run / file).read_text())
        assert sent["segdcn"] == __version__
        assert sent["model"]["class_names"] == list(Shapes.class_names)
        assert {key: sent["model"][key] for key in written["model"]} == written["model"]
        assert {key: sent[key] for key in written if key != "model"} == {
            key: value for key, value in written.items() if key != "model"
        }
        assert sent["trainer"]["gradient_clip_val"] is None and sent["pictures"]["max_side"] == SIDE  # defaults too


@pytest.fixture(scope="module")
def pictures(parts):
    """The records with pictures of validations, each with the folder of its files."""
    return [(row, part / "files") for part in parts for row in with_key(rows(part), "val/samples")]


def test_every_validation_sends_the_same_images_in_one_record(pictures):
    assert [row["trainer/global_step"] for row, _ in pictures] == [1, 3]
    for row, files in pictures:
        assert row["val/samples/captions"] == pictures[0][0]["val/samples/captions"]
        for key in ("val/samples", "val/confusion", "offsets/sampling", "offsets/fields"):
            names = row[f"{key}/filenames"]
            assert len(names) == {"val/samples": 2, "offsets/sampling": 2}.get(key, 1)
            for name in names:
                with Image.open(files / name) as opened:
                    assert opened.format == "JPEG"
                    assert opened.size == (row[f"{key}/width"], row[f"{key}/height"])
        assert max(row["val/samples/width"], row["val/samples/height"]) == SIDE


def test_mask_files_hold_the_reduced_labels_and_predictions(pictures, workplace, run):
    """Of the labels by the set's own PNGs; of predictions, by what the checkpoint of that step predicts."""
    data = Shapes(str(workplace / "set"), num_workers=0)
    dataset = data.eval_dataset("val")
    by_name = {sample.name: dataset[index] for index, sample in enumerate(dataset.samples)}
    predictor = segdcn.load(run / "checkpoints" / "last.ckpt")
    files = {sample.name: sample.image for sample in dataset.samples}
    for row, folder in pictures:
        for name, masks in zip(row["val/samples/captions"], row["val/samples/all_masks"], strict=True):
            labels = by_name[name]["labels"].numpy().astype(np.uint8)
            expected = {"ground_truth": labels}
            if row["trainer/global_step"] == 3:  # the last
                expected["prediction"] = predictor.predict(files[name]).astype(np.uint8)
            for kind_of_mask, whole in expected.items():
                blank = np.zeros((*whole.shape, 3), np.uint8)
                reduced = Overlay(name, blank, whole, whole).reduced(SIDE).labels
                with Image.open(folder / masks[kind_of_mask]["path"]) as mask:
                    assert np.array_equal(np.asarray(mask), reduced)


def test_masks_know_the_names_of_the_classes(parts):
    (path,) = parts[0].glob("*.wandb")
    updates = [item for record in kind(path, "config") for item in record.update]
    (known,) = [
        json.loads(item.value_json)["mask/class_labels"]
        for item in updates
        if item.key == "_wandb" and "mask/class_labels" in item.value_json
    ][-1:]
    for mask in ("prediction", "ground_truth"):
        names = known[f"val/samples_wandb_delimeter_{mask}"]["value"]
        assert names["0"] == "background" and names["6"] == "crescent" and names["255"] == "ignored"


def test_the_end_of_fit_draws_nothing_twice_and_sends_the_effective_dilation(parts, run):
    for part in parts:
        last = rows(part)[-1]
        assert {"offsets/effective_dilation/filenames"} <= last.keys() and "val/samples/filenames" not in last
    names = {path.name for path in (run / "pictures").iterdir()}
    (first, second) = sorted(name for name in names if name.startswith("val_") and name.count("_") == 1)
    stems = [first.removesuffix(".png"), second.removesuffix(".png")]
    assert names == {
        *(f"{stem}{what}.png" for stem in stems for what in ("", "_sampling")),
        f"{stems[0]}_encoder.layer4.1.conv2.png",
        *("confusion.png", "effective_dilation.png", "effective_dilation.csv", "effective_dilation_course.png"),
    }


def test_the_checkpoint_that_was_asked_for_is_an_artifact_in_the_run_folder(parts, run):
    (path,) = parts[1].glob("*.wandb")
    (artifact,) = kind(path, "artifact")
    assert artifact.type == "model" and artifact.name == f"run-{artifact.run_id}" and "best" in artifact.aliases
    (entry,) = artifact.manifest.contents
    assert entry.path == "best.ckpt" and Path(entry.local_path).is_relative_to(run.absolute())
    assert Path(entry.local_path).read_bytes() == (run / "checkpoints" / "best.ckpt").read_bytes()
    best = torch.load(run / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True)
    assert json.loads(artifact.metadata)["step"] == best["global_step"]


def test_the_cost_of_logging_is_in_every_validation(parts):
    for part in parts:
        (row,) = with_key(rows(part), "val/mIoU")
        assert 0 < row["time/logging_share"] < 1
        for name in ("pictures", "effective_dilation", "offset_health", "metrics_csv", "wandb"):
            assert row[f"time/logging/{name}"] > 0
