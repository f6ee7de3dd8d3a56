"""Scoring label PNGs: against the official evaluator of Cityscapes, torchmetrics and scikit-learn."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import confusion_matrix
from torchmetrics.classification import MulticlassJaccardIndex

from segdcn import cli

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"


def disturbed(labels: np.ndarray, values: list[int], seed: int) -> np.ndarray:
    """Move labels by some pixels and overwrite some blocks with other values."""
    rng = np.random.default_rng(seed)
    guess = np.roll(labels, (5, -9), (0, 1)).copy()
    for _ in range(40):
        y, x = rng.integers(0, labels.shape[0] - 8), rng.integers(0, labels.shape[1] - 8)
        height, width = rng.integers(4, max(5, labels.shape[0] // 8)), rng.integers(4, max(5, labels.shape[1] // 8))
        guess[y : y + height, x : x + width] = rng.choice(values)
    return guess


@pytest.fixture(scope="module")
def street_scenes(test_data, tmp_path_factory) -> tuple[Path, Path]:
    """Ground truth of Frankfurt and disturbed copies, in which ignored ids are predicted too."""
    truth = test_data / "cityscapes_labels_only" / "gtFine" / "val"
    guesses = tmp_path_factory.mktemp("predictions")
    for number, path in enumerate(sorted(truth.rglob("*_labelIds.png"))):
        with Image.open(path) as stored:
            guess = disturbed(np.asarray(stored), [*range(34)], seed=number)
        name = path.name.replace("_gtFine_labelIds.png", "_leftImg8bit_pred.png")
        Image.fromarray(guess).save(guesses / name)
    return truth, guesses


def evaluate(guesses: Path, truth: Path, config: Path, report: Path, *flags: str) -> dict:
    assert cli.main(["evaluate", str(guesses), str(truth), str(config), "--json", str(report), *flags]) == 0
    return json.loads(report.read_text())


@pytest.mark.filterwarnings("ignore")  # the evaluator's own
def test_it_agrees_with_the_official_evaluator_of_cityscapes(street_scenes, tmp_path, monkeypatch):
    truth, guesses = street_scenes
    ours = evaluate(guesses, truth, CONFIGS / "cityscapes.yaml", tmp_path / "report.json", "--detail=false")

    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    truths = sorted(str(path) for path in truth.rglob("*_labelIds.png"))
    predictions = [str(next(guesses.glob(Path(path).name.replace("_gtFine_labelIds.png", "*")))) for path in truths]
    args = official.args
    args.quiet, args.JSONOutput, args.evalInstLevelScore, args.evalPixelAccuracy = True, False, False, False
    theirs = official.evaluateImgLists(predictions, truths, args)

    assert ours["images"] == 10
    assert ours["mIoU"] == pytest.approx(theirs["averageScoreClasses"], abs=1e-9)
    assert ours["category_mIoU"] == pytest.approx(theirs["averageScoreCategories"], abs=1e-9)
    for name, iou in ours["IoU"].items():
        assert (iou if iou is not None else float("nan")) == pytest.approx(
            theirs["classScores"][name], abs=1e-9, nan_ok=True
        )
    for name, iou in ours["category_IoU"].items():
        assert iou == pytest.approx(theirs["categoryScores"][name], abs=1e-9)


@pytest.mark.filterwarnings("ignore")  # the evaluator's own
def test_instance_iou_is_the_official_one_with_the_set_s_own_mean_sizes(test_data, tmp_path, monkeypatch):
    """On one frame; the official one takes the mean sizes of its training set."""
    original = test_data / "cityscapes" / "gtFine" / "val" / "aachen" / "aachen_000004_000019_gtFine_labelIds.png"
    truth, guesses = tmp_path / "truth" / "aachen", tmp_path / "guesses"
    truth.mkdir(parents=True)
    guesses.mkdir()
    shutil.copy(original, truth)
    shutil.copy(str(original).replace("labelIds", "instanceIds"), truth)
    with Image.open(original) as stored:
        Image.fromarray(disturbed(np.asarray(stored), [*range(7, 34)], seed=0)).save(
            guesses / "aachen_000004_000019_pred.png"
        )
    ours = evaluate(guesses, truth, CONFIGS / "cityscapes.yaml", tmp_path / "report.json")["objects"]
    assert ours["are"] == "instances"

    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official

    with Image.open(next(truth.glob("*instanceIds.png"))) as stored:
        instances = np.asarray(stored)
    ids, areas = np.unique(instances[instances > 1000], return_counts=True)
    # The evaluator still calls what NumPy has removed.
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)
    args = official.args
    sizes = {official.id2label[i].name: areas[ids // 1000 == i].mean() for i in set((ids // 1000).tolist())}
    monkeypatch.setattr(args, "avgClassSize", args.avgClassSize | sizes)
    for name in ("quiet", "evalInstLevelScore"):
        monkeypatch.setattr(args, name, True)
    for name in ("JSONOutput", "evalPixelAccuracy"):
        monkeypatch.setattr(args, name, False)
    theirs = official.evaluateImgLists([str(next(guesses.iterdir()))], [str(next(truth.glob("*labelIds.png")))], args)[
        "classInstScores"
    ]
    scored = {name: iou for name, iou in ours["instance_IoU"].items() if iou is not None}
    assert len(scored) >= 3 and scored == pytest.approx({name: theirs[name] for name in scored}, abs=1e-9)


def test_voc_agrees_with_torchmetrics_and_scikit_learn(test_data, tmp_path):
    truth, guesses = test_data / "VOCdevkit" / "VOC2012" / "SegmentationClass", tmp_path / "predictions"
    guesses.mkdir()
    some = tmp_path / "truth"
    some.mkdir()
    jaccard = MulticlassJaccardIndex(21, average="macro", ignore_index=255)
    matrix = np.zeros((21, 21), np.int64)
    for number, path in enumerate(sorted(truth.glob("*.png"))[:30]):
        shutil.copy(path, some / path.name)
        with Image.open(path) as stored:
            labels = np.asarray(stored)
        guess = disturbed(np.where(labels == 255, 0, labels), [*range(21)], seed=number)
        Image.fromarray(guess).save(guesses / path.name)
        jaccard.update(torch.from_numpy(guess.astype(np.int64)), torch.from_numpy(labels.astype(np.int64)))
        counted = labels != 255
        matrix += confusion_matrix(labels[counted], guess[counted], labels=range(21))
    ours = evaluate(guesses, some, CONFIGS / "voc.yaml", tmp_path / "report.json", "--detail=false")
    assert ours["mIoU"] == pytest.approx(float(jaccard.compute()), abs=1e-6)
    diagonal, rows, columns = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    assert list(ours["IoU"].values()) == pytest.approx((diagonal / (rows + columns - diagonal)).tolist(), abs=1e-12)
    assert list(ours["Dice"].values()) == pytest.approx((2 * diagonal / (rows + columns)).tolist(), abs=1e-12)
    assert ours["pixel_accuracy"] == pytest.approx(diagonal.sum() / matrix.sum(), abs=1e-12)


@pytest.fixture
def tiny(tmp_path) -> tuple[Path, Path, Path]:
    """Two label maps of two classes below truth/, the same below guess/, and their YAML."""
    for folder in ("truth", "guess"):
        for name in ("a", "sub/b"):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.array([[0, 1], [1, 255]], np.uint8)).save(path)
    config = tmp_path / "set.yaml"
    config.write_text("class_path: segdcn.data.Folder\ninit_args: {classes: {x: [0, 0, 0], y: [9, 9, 9]}}\n")
    return tmp_path / "truth", tmp_path / "guess", config


def test_a_list_says_which_ground_truths_count(tiny, tmp_path, capsys):
    truth, guess, config = tiny
    (guess / "a.png").unlink()
    names = tmp_path / "names.txt"
    names.write_text("sub/b\n")
    result = evaluate(guess, truth, config, tmp_path / "report.json", "--names", str(names), "--detail=false")
    assert result["images"] == 1 and result["mIoU"] == 1 and "boundary" not in result
    capsys.readouterr()
    for text, message in {"": "holds no names", "b": "1 of 1 names", None: "does not exist"}.items():
        names.unlink() if text is None else names.write_text(text)
        assert cli.main(["evaluate", str(guess), str(truth), str(config), "--names", str(names)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_list_is_read_as_those_of_data_sets_are(tiny, tmp_path, ends):
    """Names with spaces, any line ends, a byte order mark."""
    truth, guess, config = tiny
    for folder in (truth, guess):
        (folder / "a.png").rename(folder / "a b.png")
    (tmp_path / "names.txt").write_bytes(ends.join(["a b", "sub/b", ""]).encode("utf-8-sig"))
    names = ["--names", str(tmp_path / "names.txt"), "--detail=false"]
    assert evaluate(guess, truth, config, tmp_path / "report.json", *names)["images"] == 2


@pytest.mark.parametrize("spelling", [["--data", "{}"], ["--data={}"]])
def test_the_description_may_be_given_by_its_name_wherever(tiny, spelling, capsys):
    truth, guess, config = tiny
    named = [part.format(config) for part in spelling]
    folders = [str(guess), str(truth)]
    for arguments in ([*folders, *named], [*named, *folders], [folders[0], *named, folders[1]]):
        assert cli.main(["evaluate", *arguments, "--detail=false"]) == 0
    assert cli.main(["evaluate", *folders, "--detail=false"]) == 2
    assert "missing: --data" in capsys.readouterr().err


def test_equal_maps_score_one_and_predicting_no_class_is_a_miss(tiny, tmp_path):
    truth, guess, config = tiny
    assert evaluate(guess, truth, config, tmp_path / "report.json")["mIoU"] == 1.0
    Image.fromarray(np.array([[255, 1], [1, 0]], np.uint8)).save(guess / "a.png")
    result = evaluate(guess, truth, config, tmp_path / "report.json", "--stored_as", "classes")
    assert result["IoU"] == {"x": 0.5, "y": 1.0} and result["pixel_accuracy"] == 5 / 6


@pytest.mark.parametrize(
    "spoil,message",
    [
        (lambda guess: (guess / "a.png").unlink(), "1 of 2 ground truths have no prediction"),
        (lambda guess: (guess / "a.png").write_bytes(b"no picture"), "cannot be read as a picture"),
        (lambda guess: Image.new("L", (3, 3)).save(guess / "a.png"), "is 3x3 pixels (height x width), but"),
        (lambda guess: Image.new("L", (2, 2), 7).save(guess / "a.png"), "holds the number 7"),
        (lambda guess: Image.new("RGB", (2, 2)).save(guess / "a.png"), "has mode RGB"),
    ],
)
def test_what_is_wrong_with_a_prediction_is_one_line(tiny, spoil, message, capsys):
    truth, guess, config = tiny
    spoil(guess)
    assert cli.main(["evaluate", str(guess), str(truth), str(config)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("stored_as", ["classes", "ground_truth"])
def test_a_value_that_is_no_class_is_one_line(stored_as, tmp_path, capsys):
    """Also of a data set that reads its ids as they are stored."""
    for folder, value in (("truth", 3), ("guess", 77)):
        (tmp_path / folder).mkdir()
        Image.new("L", (2, 2), value).save(tmp_path / folder / "a.png")
    arguments = [str(tmp_path / "guess"), str(tmp_path / "truth"), str(CONFIGS / "voc.yaml")]
    assert cli.main(["evaluate", *arguments, "--stored_as", stored_as]) == 2
    error = capsys.readouterr().err
    assert "holds the label 77 in 4 pixels; expected 0 to 20, or 255" in error and error.count("\n") == 1


def test_what_is_wrong_with_the_description_is_one_line(tiny, tmp_path, capsys):
    truth, guess, config = tiny
    for text, message in {
        "class_path: os.system": "os.system may not be named in a configuration",
        "class_path: segdcn.data.Foldr": "cannot be imported",
        "[1, 2]": "describes no data set",
        "class_path: segdcn.data.VOC\ninit_args: {clases: 1}": "clases",
        "{": "is no YAML",
    }.items():
        config.write_text(text)
        assert cli.main(["evaluate", str(guess), str(truth), str(config)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
