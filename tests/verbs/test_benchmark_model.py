"""`segdcn benchmark model`: what is compared, what is counted, what is refused."""

import json

import pytest
import torch

from segdcn.cli import main
from segdcn.errors import InvalidDataError, UserValueError
from segdcn.export import read_trained
from segdcn.predictor import Predictor
from segdcn.verbs import benchmark_model as verb


@pytest.fixture(autouse=True)
def threads():
    """Give torch its threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def bench(*arguments):
    return main(["benchmark", "model", *map(str, arguments), "--rounds=2"])


def test_the_checkpoint_its_plain_twin_and_an_export_are_timed(checkpoint, tmp_path, capsys):
    report = tmp_path / "report.json"
    flags = ("--size", 64, 80, "--batch=2", "--threads=1", "--exports", "safetensors", f"--json={report}")
    assert bench(checkpoint, *flags) == 0
    found = json.loads(report.read_text())
    assert "1 thread;" in found["machine"] and "2x64x80" in found["machine"]
    deformable, plain, exported = found["rows"]
    assert [row["name"] for row in found["rows"]] == ["best.ckpt", "plain", "safetensors"]
    # Two layers of 512 channels on 4x5 maps, of two images: reads, and a convolution to 27 channels that predicts them.
    reading = 2 * 2 * 20 * 9 * 512 * 7
    predicting = 2 * 2 * 2 * 20 * 9 * 512 * 27
    assert deformable["flops"] - plain["flops"] == reading + predicting
    assert deformable["parameters"] - plain["parameters"] == 2 * (9 * 512 * 27 + 27)
    assert deformable["factor"] == 1 and exported["difference"] == 0 and plain["difference"] is None
    for row in found["rows"]:
        assert row["seconds"]["p50"] <= row["seconds"]["p90"] <= row["seconds"]["p99"]
        assert row["images_per_second"] == pytest.approx(2 / row["seconds"]["p50"])
    shown = capsys.readouterr().out
    assert "something else" not in shown and max(map(len, shown.splitlines())) <= 80


def test_the_plain_twin_is_the_same_network_but_for_the_offsets(checkpoint):
    trained = read_trained(checkpoint)
    plain = verb._plain(trained.description.config, trained.network, "best.ckpt")
    image = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        assert (plain(image) - trained.network(image)).abs().max() > 1e-3
        for name, parameter in trained.network.named_parameters():
            parameter.mul_(0 if "offset_conv" in name else 1)
        torch.testing.assert_close(plain(image), trained.network(image), rtol=1e-4, atol=1e-4)


def test_settings_in_a_file_that_make_no_network_are_refused_in_one_line():
    """An ONNX file may come from anywhere; its plain twin is built from what it says."""
    with pytest.raises(InvalidDataError, match="a.onnx: its settings make no network: .*'colour'"):
        verb._plain({"num_classes": 3, "colour": 1}, torch.nn.Identity(), "a.onnx")


def test_what_computes_something_else_is_named(checkpoint, monkeypatch, capsys):
    made = verb._made

    def wrong(*arguments):
        right = made(*arguments)
        return Predictor(lambda image: right.run(image) * 1.5, right.description)

    monkeypatch.setattr(verb, "_made", wrong)
    assert bench(checkpoint, "--size", 32, "--exports", "safetensors") == 0
    assert "safetensors computes something else: logits differ by 50.0% of the largest" in capsys.readouterr().out


def test_memory_that_runs_out_is_an_error_of_one_line(checkpoint, monkeypatch, capsys):
    def exhausted(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(verb, "peak_memory", exhausted)
    assert bench(checkpoint, "--size", 32, 48) == 2
    assert "a batch of (1, 3, 32, 48) does not fit into the memory of cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch=0"], "at least 2 rounds, 1 image and 1 thread are needed"),
        (["--threads=0"], "at least 2 rounds, 1 image and 1 thread are needed"),
        (["--size", "50", "64"], "size is 50 64; expected height and width, multiples of 16"),
        (["--size", "0"], "size is 0; expected"),
        (["--size", "64", "64", "64"], "expected height and width"),
        (["--exports", "onx"], "exports has 'onx', which is no file; did you mean onnx?; formats: onnx"),
        (["--exports", "onnx,a.pt2"], "exports has 'a.pt2', which is no file"),
        (["--json=no/folder/a.json"], "json is no/folder/a.json"),
        (["--device=tpu"], "device: expected one of 'cpu', 'cuda'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(checkpoint, capsys, flags, message):
    assert bench(checkpoint, *flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_onnx_is_not_timed_against_a_gpu():
    with pytest.raises(UserValueError, match="onnx computes on the CPU; there aoti and safetensors can"):
        verb._wanted(["onnx"], torch.device("cuda"))
    assert verb._wanted(["aoti,safetensors", "aoti"], torch.device("cuda")) == ["aoti", "safetensors"]


@pytest.mark.slow
def test_exports_of_other_runtimes_and_files_made_earlier_are_timed(checkpoint, tmp_path, capsys):
    made = tmp_path / "made.onnx"
    assert main(["export", str(checkpoint), "--format=onnx", f"--output={made}"]) == 0
    report = tmp_path / "report.json"
    assert bench(checkpoint, "--size", 64, 96, "--exports", f"onnx,program,{made}", f"--json={report}") == 0
    rows = json.loads(report.read_text())["rows"]
    assert [row["name"] for row in rows] == ["best.ckpt", "plain", "onnx", "program", "made.onnx"]
    assert all(row["difference"] < 1e-4 for row in rows if row["name"] != "plain")
    assert bench(made, "--size", 64, 96) == 0  # its plain twin is built from its description
    assert bench(made, "--exports=program") == 2
    assert "program can be made of a checkpoint or of safetensors only" in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        bench("--help")
    assert stopped.value.code == 0
    assert "segdcn benchmark model best.ckpt --size 512 1024 --threads 2 --exports onnx" in capsys.readouterr().out
