"""`segdcn predict` with a network that labels each pixel by its own colour."""

import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from segdcn import cli
from segdcn.description import Description
from segdcn.errors import InvalidDataError
from segdcn.prediction import labelling
from segdcn.prediction.results import Results
from segdcn.predictor import Predictor
from segdcn.verbs import predict as verb

NAMES, PALETTE = ["red", "green", "blue"], [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
DESCRIPTION = Description(
    class_names=NAMES,
    palette=PALETTE,
    mean=[0.0, 0.0, 0.0],
    std=[1.0, 1.0, 1.0],
    size_divisor=4,
    config={"num_classes": 3},
    weights_sha256="",
)


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Take a channel's value for its class's logit; gives the shapes that were seen. The cwd is empty."""
    seen = []

    def run(image):
        seen.append(tuple(image.shape))
        return image

    monkeypatch.setattr(verb, "load", lambda model, trust: Predictor(run, DESCRIPTION))
    monkeypatch.chdir(tmp_path)
    return seen


def blocks(height, width, seed=0):
    """Give a picture of coloured blocks, and the class that is brightest in each pixel."""
    picture = np.random.default_rng(seed).integers(0, 256, (-(-height // 4), -(-width // 4), 3), np.uint8)
    picture = picture.repeat(4, 0).repeat(4, 1)[:height, :width]
    return picture, picture.argmax(2)


def save(path, height=10, width=14, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture, labels = blocks(height, width, seed)
    Image.fromarray(picture).save(path, **options)
    return labels


def predict(*arguments):
    return cli.main(["predict", "best.ckpt", *map(str, arguments)])


def stored(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_labels_overlays_and_probabilities_have_the_pictures_size_and_name(network, tmp_path, capsys):
    one, two = save(tmp_path / "in" / "a.png"), save(tmp_path / "in" / "deep" / "b.png", 7, 9, seed=1)
    assert predict("in", "--output=out", "--probabilities", "--json=report.json") == 0
    kinds = {"labels": ".png", "overlays": ".jpg", "probabilities": ".npy"}
    expected = [f"{kind}/{name}{ending}" for kind, ending in kinds.items() for name in ("a", "deep/b")]
    assert files(tmp_path / "out") == sorted([*expected, "overlays/legend.png"])
    np.testing.assert_array_equal(stored(tmp_path / "out/labels/a.png"), one)
    np.testing.assert_array_equal(stored(tmp_path / "out/labels/deep/b.png"), two)
    with Image.open(tmp_path / "out/labels/a.png") as picture:
        assert picture.mode == "P" and picture.getpalette()[:9] == sum(PALETTE, [])
    shares = np.load(tmp_path / "out/probabilities/a.npy")
    assert shares.shape == (3, 10, 14) and shares.dtype == np.float16
    exact = torch.from_numpy(blocks(10, 14)[0] / 255).softmax(2).numpy().transpose(2, 0, 1)
    np.testing.assert_allclose(shares, exact, atol=1e-3)
    overlay = stored(tmp_path / "out/overlays/a.jpg").astype(int)
    inside = overlay[6, 6]  # in the middle of a block, half its colour and half its class's
    np.testing.assert_allclose(inside, (blocks(10, 14)[0][6, 6] + np.array(PALETTE)[one[6, 6]]) / 2, atol=40)

    report, said = json.loads((tmp_path / "report.json").read_text()), capsys.readouterr().out
    assert report["labelled"] == 2 and report["failed"] == [] and report["classes"] == NAMES
    assert report["pictures_per_second"] == pytest.approx(2 / report["seconds"])
    assert "2 pictures labelled in" in said and "a second" in said


def test_what_cannot_be_labelled_is_named_at_the_end_and_does_not_stop_the_rest(network, tmp_path, capsys):
    save(tmp_path / "in" / "good.png")
    save(tmp_path / "in" / "cut.jpg", 200, 200)
    content = (tmp_path / "in" / "cut.jpg").read_bytes()
    (tmp_path / "in" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (tmp_path / "in" / "em\npty.png").touch()
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "in" / "deep.png")
    (tmp_path / "in" / "gone.png").symlink_to("nowhere")
    save(tmp_path / "in" / "zz.png")
    assert predict("in", "--output=out", "--overlays=false", "--json=report.json") == 1
    assert files(tmp_path / "out") == ["labels/good.png", "labels/zz.png"]
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("2 pictures labelled") and said[1] == "4 could not be labelled:"
    for name, reason in {
        "cut.jpg": "is damaged or cut short",
        "deep.png": "has mode I;16; expected 8 bits per channel",
        r"em\npty.png": "cannot be read as a picture (it is empty)",
        "gone.png": "is a link to nowhere, which does not exist",
    }.items():
        assert any(f"{name} {reason}" in line for line in said[2:])
    assert len(said) == 6
    failed = json.loads((tmp_path / "report.json").read_text())["failed"]
    assert [one["picture"] for one in failed] == ["in/cut.jpg", "in/deep.png", "in/em\npty.png", "in/gone.png"]


def test_a_name_in_no_encoding_can_be_labelled_and_named(network, tmp_path, capsys):
    (tmp_path / "bad\udcff.png").touch()
    save(tmp_path / "good\udcff.png")
    assert predict("bad\udcff.png", "good\udcff.png", "--output=out") == 1
    assert "bad\\udcff.png cannot be read" in capsys.readouterr().out
    assert (tmp_path / "out" / "labels" / "good\udcff.png").is_file()


def test_a_picture_above_the_limit_is_refused_by_name(network, tmp_path, monkeypatch, capsys):
    """Pillow itself refuses from twice its limit on, and only warns below."""
    save(tmp_path / "large.png", 30, 40)
    save(tmp_path / "small.png", 10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert predict("large.png", "small.png", "--output=out") == 1
    assert "large.png cannot be read as a picture (Image size (1200 pixels) exceeds limit" in capsys.readouterr().out
    assert (tmp_path / "out" / "labels" / "small.png").is_file()


def test_turned_photographs_give_labels_that_are_upright(network, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    labels = save(tmp_path / "a.png", 10, 14, exif=exif)
    assert predict("a.png", "--output=out") == 0
    np.testing.assert_array_equal(stored(tmp_path / "out/labels/a.png"), np.rot90(labels, -1))
    assert stored(tmp_path / "out/overlays/a.jpg").shape == (14, 10, 3)


def test_nothing_is_overwritten_unless_told(network, tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "out" / "labels").mkdir(parents=True)
    (tmp_path / "out" / "labels" / "a.png").write_text("mine")
    assert predict("a.png", "--output=out") == cli.EXIT_USER_ERROR
    assert "output out is not empty; choose another folder, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "out" / "labels" / "a.png").read_text() == "mine" and network == []
    assert predict("a.png", "--output=out", "--overwrite") == 0
    np.testing.assert_array_equal(stored(tmp_path / "out/labels/a.png"), blocks(10, 14)[1])


def test_results_stay_below_their_folder_and_spare_the_pictures(network, tmp_path, capsys):
    save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "labels").symlink_to(tmp_path / "elsewhere")
    assert predict("a.png", "--output=out", "--overwrite") == cli.EXIT_USER_ERROR
    assert "out/labels is a link that leads out of out; remove it" in capsys.readouterr().err
    (tmp_path / "out" / "labels").unlink()

    save(tmp_path / "out" / "labels" / "b.png")
    assert predict("out/labels/b.png", "--output=out", "--overwrite") == cli.EXIT_USER_ERROR
    assert "out/labels/b.png would be written, but is one of the pictures" in capsys.readouterr().err

    # A file at the place of a result that is a link is replaced, not what it leads to.
    (tmp_path / "elsewhere" / "kept.png").write_text("kept")
    (tmp_path / "out" / "labels" / "a.png").symlink_to(tmp_path / "elsewhere" / "kept.png")
    assert predict("a.png", "--output=out", "--overwrite") == 0
    assert (tmp_path / "elsewhere" / "kept.png").read_text() == "kept"
    assert not (tmp_path / "out" / "labels" / "a.png").is_symlink()

    save(tmp_path / "in" / "a.jpg")
    save(tmp_path / "in" / "a.png" / "c.png")
    assert predict("in", "--output=other") == cli.EXIT_USER_ERROR
    assert "other/labels/a.png would be a file of results, but is or will be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["in", "in/out"])
def test_results_among_the_pictures_are_not_labelled_the_next_time(network, tmp_path, output):
    save(tmp_path / "in" / "a.png")
    save(tmp_path / "in" / "deep" / "b.png")
    for _ in range(2):
        assert predict("in", f"--output={output}", "--overwrite") == 0
        assert len(network) == 2
        network.clear()
    assert "overlays/legend.png" in files(tmp_path / output) and (tmp_path / "in" / "a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpg"], "there is no nowhere.jpg"),
        (["a.png", "--output=a.png/x"], "output is a.png/x, but a.png is not a folder"),
        (["a.png", "--output=/proc/x"], "output /proc/x cannot be written"),
        (["a.png", "--batch_size=0"], "batch_size is 0; at least 1 is needed"),
        (["a.png", "--whole", "--window=8"], "--whole and --window exclude each other"),
        (["a.png", "--window=7"], "the window of evaluation is [7, 7]; expected [height, width]"),
        (["a.png", "--window", "8", "8", "8"], "expected one number, or [height, width]"),
        (["a.png", "--overlap=1"], "the overlap of evaluation is 1.0"),
        (["a.png", "--scales", "0"], "the scales of evaluation are [0.0]"),
        (["a.png", "--device=tpu"], "device: expected one of 'auto', 'cpu', 'cuda'"),
        (["a.png", "--json=no/folder/x.json"], "json is no/folder/x.json"),
        ([], "inputs"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(network, tmp_path, capsys, arguments, message):
    save(tmp_path / "a.png")
    assert predict(*arguments) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert files(tmp_path) == ["a.png"] and not (tmp_path / "predictions").exists()


def test_a_gpu_is_refused_where_the_file_or_the_machine_has_none(network, tmp_path, monkeypatch, capsys):
    save(tmp_path / "a.png")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert predict("a.png", "--device=cuda") == cli.EXIT_USER_ERROR
    assert "device is cuda, but best.ckpt computes on cpu only" in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert predict("a.png", "--device=cuda") == cli.EXIT_USER_ERROR
    assert "torch sees no GPU here" in capsys.readouterr().err


def settings_of(*arguments, config):
    description = Description(**{**vars(DESCRIPTION), "config": {"num_classes": 3, **config}})
    inference = verb._inference(Predictor(lambda image: image, description), *arguments)
    return inference.window, inference.overlap, inference.scales, inference.flip


def test_settings_are_those_of_validation_unless_given():
    kept = {"eval_window": 8, "eval_overlap": 0.5, "eval_scales": [0.5, 1.0], "eval_flip": True}
    assert settings_of({}, False, config={}) == (None, 1 / 3, (1.0,), False)
    assert settings_of({}, False, config=kept) == ((8, 8), 0.5, (0.5, 1.0), True)
    chosen = {"eval_window": [4, 12], "eval_flip": False, "eval_scales": [1.0]}
    assert settings_of(chosen, False, config=kept) == ((4, 12), 0.5, (1.0,), False)
    assert settings_of({"eval_window": [16]}, False, config=kept)[0] == (16, 16)
    assert settings_of({}, True, config=kept)[0] is None


@pytest.mark.parametrize("kept", [{"eval_window": "ab"}, {"eval_scales": 7}, {"eval_overlap": "half"}])
def test_settings_in_a_file_that_cannot_be_are_refused(kept):
    with pytest.raises(InvalidDataError, match="the model keeps settings of validation that cannot be"):
        settings_of({}, False, config=kept)


def test_pictures_of_one_size_make_batches(network, tmp_path):
    for name, size in {"a": (8, 8), "b": (8, 12), "c": (8, 8), "d": (8, 8), "e": (8, 12)}.items():
        save(tmp_path / "in" / f"{name}.png", *size, seed=ord(name))
    assert predict("in", "--output=out", "--batch_size=2") == 0
    assert sorted(network) == [(1, 3, 8, 8), (2, 3, 8, 8), (2, 3, 8, 12)]
    for name, size in {"c": (8, 8), "e": (8, 12)}.items():
        np.testing.assert_array_equal(stored(tmp_path / f"out/labels/{name}.png"), blocks(*size, seed=ord(name))[1])


def test_no_more_pictures_than_some_batches_wait_for_others_of_their_size():
    pictures = [(index, np.zeros((1 + index, 1, 3))) for index in range(20)]
    batches = labelling.by_size(iter(pictures), 2)
    assert [index for index, _ in next(batches)] == [0]  # when the ninth has come
    assert [[index for index, _ in batch] for batch in batches] == [[index] for index in range(1, 20)]


def test_a_batch_that_does_not_fit_into_memory_is_labelled_one_by_one(network, tmp_path, monkeypatch, capsys):
    def run(image):
        if image.shape[0] > 1 or image.shape[3] > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes")
        return image

    monkeypatch.setattr(verb, "load", lambda model, trust: Predictor(run, DESCRIPTION))
    save(tmp_path / "in" / "a.png", 8, 8)
    save(tmp_path / "in" / "b.png", 8, 8)
    save(tmp_path / "in" / "c.png", 12, 24)
    assert predict("in", "--output=out", "--overlays=false", "--batch_size=2") == 1
    assert files(tmp_path / "out") == ["labels/a.png", "labels/b.png"]
    assert "in/c.png, 12x24 (height x width), needs more memory than there is; give a --window" in (
        capsys.readouterr().out
    )


def test_labels_that_nothing_can_be_read_from_are_not_written(network, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(verb, "load", lambda model, trust: Predictor(lambda image: image / 0, DESCRIPTION))
    save(tmp_path / "a.png")
    assert predict("a.png", "--output=out", "--overlays=false") == 1
    assert "a.png: what the network computes is infinite or NaN" in capsys.readouterr().out
    assert files(tmp_path / "out") == []


def test_ctrl_c_keeps_what_is_finished_and_says_how_many(network, tmp_path, monkeypatch, capsys):
    """The fifth picture is interrupted, while results of the first four may still be under way."""
    started = threading.Event()
    write = Results.write

    def slow(self, *arguments):
        started.wait(10)
        write(self, *arguments)

    def run(image):
        network.append(image)
        if len(network) == 5:
            started.set()
            raise KeyboardInterrupt
        return image

    monkeypatch.setattr(Results, "write", slow)
    monkeypatch.setattr(verb, "load", lambda model, trust: Predictor(run, DESCRIPTION))
    for index in range(9):
        save(tmp_path / "in" / f"{index}.png", seed=index)
    assert predict("in", "--output=out", "--overlays=false") == cli.EXIT_INTERRUPTED
    assert "stopped by Ctrl-C; 4 of 9 pictures are labelled, in out\n" in capsys.readouterr().err
    assert files(tmp_path / "out") == [f"labels/{index}.png" for index in range(4)]
    np.testing.assert_array_equal(stored(tmp_path / "out/labels/3.png"), blocks(10, 14, seed=3)[1])


def test_a_full_disk_stops_the_run_and_leaves_no_part_of_a_file(network, tmp_path, monkeypatch, capsys):
    def full(path, ids, palette):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segdcn.prediction.results.write_id_map", full)
    save(tmp_path / "a.png")
    assert predict("a.png", "--output=out", "--overlays=false") == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "out cannot be written (No space left on device); 0 of 1 pictures are labelled, in out" in said
    assert files(tmp_path / "out") == []


def test_a_picture_whose_results_no_file_can_hold_does_not_stop_the_rest(network, tmp_path, capsys):
    """A JPEG has at most 65,500 pixels a side; a name has 255 bytes, and `.png` is four of them."""
    save(tmp_path / "in" / "a wide one.png", 2, 65501)
    save(tmp_path / "in" / "good.png")
    save(tmp_path / ("x" * 254), format="PNG")
    assert predict("in", "x" * 254, "--output=out") == 1
    said = capsys.readouterr().out
    assert (
        "a wide one.png: its overlay would be 2x65501 (height x width), but a JPEG has sides of at most 65500" in said
    )
    assert "xxx: its results cannot be written (File name too long)" in said
    assert files(tmp_path / "out") == ["labels/good.png", "overlays/good.jpg", "overlays/legend.png"]
    assert predict("in", "--output=again", "--overlays=false") == 0
    np.testing.assert_array_equal(stored(tmp_path / "again/labels/a wide one.png"), blocks(2, 65501)[1])


def test_memory_that_runs_out_while_results_are_made_costs_one_picture(network, tmp_path, monkeypatch, capsys):
    write = Results.write

    def exhausted(self, name, *arguments):
        if name == "large":
            raise MemoryError
        write(self, name, *arguments)

    monkeypatch.setattr(Results, "write", exhausted)
    for name in ("large", "small"):
        save(tmp_path / "in" / f"{name}.png")
    assert predict("in", "--output=out", "--overlays=false") == 1
    assert "large.png: its results need more memory than there is" in capsys.readouterr().out
    assert files(tmp_path / "out") == ["labels/small.png"]


def test_classes_beyond_a_byte_are_stored_in_two(tmp_path):
    names = [f"{index}" for index in range(300)]
    results = Results(tmp_path, names, None, overlays=True, probabilities=False)
    results.make_folder()
    labels = np.full((2, 3), 299, np.uint16)
    results.write("a", np.zeros((2, 3, 3), np.uint8), labels, None)
    np.testing.assert_array_equal(stored(tmp_path / "labels" / "a.png"), labels)
    assert len({tuple(colour) for colour in results.palette}) == 300


@pytest.mark.parametrize("flags", [["--overwrite"], ["--flip"], ["--flip", "false"], ["--overlays=false"]])
def test_a_flag_may_stand_before_the_pictures(network, tmp_path, flags):
    save(tmp_path / "a.png")
    assert predict("--output=out", *flags, "a.png") == 0
    assert (tmp_path / "out" / "labels" / "a.png").is_file()
    assert len(network) == (2 if flags == ["--flip"] else 1)


def test_the_pictures_may_be_given_by_their_name_and_the_report_lie_among_the_results(network, tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png")
    assert predict("--inputs", "a.png", "b.png", "--output=out", "--overlays=false", "--json=out/report.json") == 0
    assert files(tmp_path / "out") == ["labels/a.png", "labels/b.png", "report.json"]


def test_programs_are_opened_when_they_are_trusted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png")
    (tmp_path / "a.pt2").touch()
    assert cli.main(["predict", "a.pt2", "a.png"]) == cli.EXIT_USER_ERROR
    assert "a.pt2 can hold code" in capsys.readouterr().err and not (tmp_path / "predictions").exists()
    assert cli.main(["predict", "a.pt2", "a.png", "--trust"]) == cli.EXIT_USER_ERROR
    assert "is damaged, or not a program that segdcn export wrote" in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        predict("--help")
    assert stopped.value.code == 0
    assert "segdcn predict runs/NAME/TIME/checkpoints/best.ckpt street.jpg photos" in capsys.readouterr().out
