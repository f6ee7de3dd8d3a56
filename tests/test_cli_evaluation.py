"""validate and test from the command line: settings, results that stay, submissions that can be scored."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segdcn import cli
from segdcn.data import VOC, Cityscapes
from segdcn.task import SegmentationTask

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def make_checkpoint(path, data, **settings):
    """Save an untrained network that knows the classes of a data set."""
    torch.manual_seed(0)
    names, palette = list(data.class_names), [list(colour) for colour in data.palette]
    task = SegmentationTask(
        num_classes=len(names),
        class_names=names,
        palette=palette,
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
        architecture="deeplab",
        encoder="resnet18",
        deform_layers=1,
        **settings,
    )
    # Untrained, the logits hardly depend on the image; larger, they give predictions of many classes.
    task.network.segmentation_head[0].weight.data *= 60
    path.parent.mkdir(parents=True)
    torch.save(
        {
            "state_dict": task.state_dict(),
            "hyper_parameters": dict(task.hparams),
            "pytorch-lightning_version": "2.6.0",
            "epoch": 0,
            "global_step": 0,
        },
        path,
    )


@pytest.fixture
def voc(tmp_path, monkeypatch):
    """Two pictures with labels in the split val, one without in test, and a checkpoint; its folder is the cwd."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / "voc" / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a": (60, 80), "b": (72, 50), "c": (60, 80)}.items():
        image = rng.integers(0, 255, (size[0] // 10 + 1, size[1] // 10 + 1, 3), dtype=np.uint8)
        image = image.repeat(10, 0).repeat(10, 1)[: size[0], : size[1]]
        Image.fromarray(image).save(tmp_path / "voc" / "JPEGImages" / f"{name}.jpg")
        if name != "c":
            labels = (image[..., 0] % 21).astype(np.uint8)
            labels[:4] = 255
            Image.fromarray(labels).save(tmp_path / "voc" / "SegmentationClass" / f"{name}.png")
    for split, names in {"val": "a\nb\n", "test": "c\n", "train": "a\nb\n"}.items():
        (tmp_path / "voc" / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(names)
    (tmp_path / "data.yaml").write_text(
        f"class_path: segdcn.data.VOC\ninit_args: {{root: {tmp_path / 'voc'}, num_workers: 0, crop_size: 64}}\n"
    )
    make_checkpoint(tmp_path / "weights" / "some.ckpt", VOC, eval_overlap=0.1, eval_flip=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def segdcn(verb, *flags):
    files = ["--config", str(CONFIGS / "base.yaml"), "--data", "data.yaml", "--ckpt_path", "weights/some.ckpt"]
    return cli.main([verb, *files, "--name=tried", "--wandb=off", "--trainer.accelerator=cpu", *flags])


def results(folder):
    return [json.loads(path.read_text()) for path in sorted((folder / "weights").glob("some.*.json"))]


def test_flags_and_files_win_over_how_the_checkpoint_was_evaluated(voc, monkeypatch):
    """The checkpoint says overlap 0.1 and flip; a file says overlap 0.2; a flag wins over both."""
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    (voc / "model.yaml").write_text("eval_overlap: 0.2\nencoder: resnet50\n")
    seen = []
    for flags in ([], ["--model=model.yaml"], ["--model=model.yaml", "--model.eval_overlap=0.3"]):
        assert segdcn("validate", *flags) == 0
        newest = max((voc / "runs" / "tried").glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns)
        model = yaml.safe_load(newest.read_text())["model"]
        seen.append((model["eval_overlap"], model["eval_flip"], model["encoder"]))
    assert seen == [(0.1, True, "resnet18"), (0.2, True, "resnet18"), (0.3, True, "resnet18")]


def test_results_lie_beside_the_checkpoint_with_all_they_depend_on_and_stay(voc, capsys):
    assert segdcn("test", "--model.eval_window=32") == 0
    (first,) = results(voc)
    assert f"mIoU        {first['mIoU']:.4f}" in capsys.readouterr().out
    assert segdcn("test", "--model.eval_scales=[0.5, 1.0]") == 0
    both = results(voc)
    assert both[0] == first
    assert [found["evaluation"]["eval_window"] for found in both] == [32, None]
    assert [found["evaluation"]["eval_scales"] for found in both] == [None, [0.5, 1.0]]
    assert first["loss"] != both[1]["loss"]
    digest = hashlib.sha256((voc / "weights" / "some.ckpt").read_bytes()).hexdigest()
    assert first["checkpoint"]["sha256"] == digest
    assert first["data"] == {"class": "segdcn.data.VOC", "root": str(voc / "voc"), "split": "val", "limit": None}
    assert first["images"] == 2 and first["objects"]["are"] == "connected regions"
    matrix = np.array(first["confusion"])
    assert matrix.shape == (21, 21) and matrix.sum() == sum(first["pixels"].values()) == 56 * 80 + 68 * 50
    assert first["pixel_accuracy"] == pytest.approx(matrix.trace() / matrix.sum())
    run = Path(first["run_folder"])
    assert json.loads((run / "results.json").read_text()) == first
    assert (run / "pictures" / "confusion.png").is_file()


def evaluated(voc, *arguments):
    assert cli.main(["evaluate", *map(str, arguments), "--json", "report.json"]) == 0
    return json.loads((voc / "report.json").read_text())


@pytest.mark.parametrize("batch", [1, 2])
def test_a_voc_submission_scores_what_test_printed(voc, batch):
    """Read back from the official tree; pictures of other sizes in the batch leave no trace."""
    assert segdcn("test", "--submission=out", f"--data.eval_batch_size={batch}", "--model.eval_window=64") == 0
    folder = voc / "out" / "results" / "VOC2012" / "Segmentation" / "comp6_val_cls"
    assert sorted(path.relative_to(folder).name for path in (voc / "out").rglob("*.png")) == ["a.png", "b.png"]
    with Image.open(folder / "a.png") as picture:
        assert picture.mode == "P" and picture.size == (80, 60) and picture.getpalette()[3:6] == [128, 0, 0]
    (ours,) = results(voc)
    scored = evaluated(voc, folder, voc / "voc" / "SegmentationClass", voc / "data.yaml")
    for key in ("mIoU", "IoU", "confusion", "boundary", "objects", "images"):
        assert scored[key] == ours[key]
    assert sum(iou is not None and iou > 0 for iou in ours["IoU"].values()) > 1


@pytest.mark.parametrize("how", [[], ["--model.eval_window=32", "--model.eval_scales=[0.75, 1.25]"]])
def test_predict_writes_the_labels_that_validate_measured(voc, how):
    """Two programs, one number for each pixel: sizes 60x80 and 72x50 are padded to 64x80 and 80x64."""
    assert segdcn("validate", "--submission=out", *how) == 0
    again = ["--window=32", "--scales", "0.75", "1.25"] if how else []  # flip and overlap are the checkpoint's
    assert cli.main(["predict", "weights/some.ckpt", "voc/JPEGImages", *again, "--device=cpu"]) == 0
    measured = sorted((voc / "out").rglob("*.png"))
    assert [path.stem for path in measured] == ["a", "b"]
    for path in measured:
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(Image.open(f"predictions/labels/{path.name}")))
    scored = evaluated(voc, "predictions", voc / "voc" / "SegmentationClass", voc / "data.yaml")
    (ours,) = results(voc)
    assert scored["confusion"] == ours["confusion"] and scored["images"] == ours["images"] == 2


def test_a_split_without_labels_can_be_submitted_and_nothing_else(voc, capsys):
    assert segdcn("test", "--data.test_split=test") == 2
    error = capsys.readouterr().err
    assert "c.jpg has no label file" in error and error.count("\n") == 1
    assert segdcn("test", "--data.test_split=test", "--submission=out") == 0
    printed = capsys.readouterr().out
    assert "no pixel has a label: nothing was measured" in printed and "mIoU" not in printed
    (path,) = (voc / "out").rglob("*.png")
    assert path.parent.name == "comp6_test_cls" and path.name == "c.png"
    assert not results(voc)


def test_a_split_that_lost_some_labels_is_refused_also_for_a_submission(voc, capsys):
    (voc / "voc" / "SegmentationClass" / "b.png").unlink()
    assert segdcn("test", "--submission=out") == 2
    assert "b.jpg has no label file" in capsys.readouterr().err


def test_a_folder_that_holds_something_is_not_written_to(voc, capsys):
    (voc / "out").mkdir()
    (voc / "out" / "mine.txt").write_text("mine")
    assert segdcn("test", "--submission=out") == 2
    error = capsys.readouterr().err
    assert "submission is out, which is not empty" in error and error.count("\n") == 1
    assert not (voc / "runs").exists()
    assert segdcn("test", "--submission=new", "--data.resize=[32, 48]") == 2
    error = capsys.readouterr().err
    assert "data.resize is [32, 48]; set --data.resize null" in error and error.count("\n") == 1
    assert segdcn("test", "--submission=data.yaml") == 2
    assert "must be a folder" in capsys.readouterr().err
    assert cli.main(["fit", "--data", "data.yaml", "--submission=out"]) == 2


@pytest.mark.filterwarnings("ignore:invalid escape sequence", "ignore::SyntaxWarning")  # the evaluator's own
def test_a_cityscapes_submission_scores_the_same_here_and_officially(test_data, tmp_path, monkeypatch):
    """On a part of a frame, 384x224, with its instances."""
    source, root = test_data / "cityscapes", tmp_path / "cityscapes"
    for path in [*source.glob("leftImg8bit/val/*/*.png"), *source.glob("gtFine/val/*/*.png")]:
        target = root / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            picture.crop((900, 380, 1284, 604)).save(target)
    (tmp_path / "data.yaml").write_text(
        f"class_path: segdcn.data.Cityscapes\ninit_args: {{root: {root}, num_workers: 0}}\n"
    )
    make_checkpoint(tmp_path / "weights" / "some.ckpt", Cityscapes)
    monkeypatch.chdir(tmp_path)
    assert segdcn("test", "--submission=out", "--model.eval_window=[128, 256]") == 0
    (ours,) = results(tmp_path)
    assert ours["objects"]["are"] == "instances" and ours["images"] == 1

    truth = root / "gtFine" / "val"
    scored = evaluated(tmp_path, tmp_path / "out", truth, tmp_path / "data.yaml")
    for key in ("mIoU", "IoU", "confusion", "boundary", "objects"):
        assert scored[key] == ours[key]

    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    args = official.args
    for name, value in {"predictionPath": str(tmp_path / "out"), "predictionWalk": None, "quiet": True}.items():
        monkeypatch.setattr(args, name, value)
    for name in ("JSONOutput", "evalInstLevelScore", "evalPixelAccuracy"):
        monkeypatch.setattr(args, name, False)
    truths = [str(path) for path in truth.rglob("*_labelIds.png")]
    predictions = [official.getPrediction(args, path) for path in truths]  # by the names that the server expects
    theirs = official.evaluateImgLists(predictions, truths, args)
    assert ours["mIoU"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)
