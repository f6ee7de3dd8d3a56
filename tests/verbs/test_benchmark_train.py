import importlib.util
import json

import pytest
import torch

from segdcn.errors import UserValueError
from segdcn.verbs import benchmark_train as verb

SMALL = {"architecture": "deeplab", "encoder": "resnet18", "size": 32, "batch": 1}


def test_every_network_is_timed_in_turn(tmp_path, capsys):
    file = tmp_path / "figures.json"
    verb.benchmark_train(**SMALL, rounds=2, json=str(file))
    report = json.loads(file.read_text())
    assert [row["network"] for row in report["rows"]] == ["plain", "deformable", "torchvision's operator"]
    assert all(row["seconds"] > 0 for row in report["rows"]) and report["rows"][0]["factor"] == 1
    shown = capsys.readouterr().out
    assert "deeplab, resnet18, 1 x 32x32, 3 deformable layers" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_both_operators_compute_the_same_network():
    """And not the plain one: the offsets are large enough to matter."""
    settings = {"architecture": "deeplab", "encoder": "resnet18"}
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    logits = {}
    for name in (verb.PLAIN, verb.OURS, verb.THEIRS):
        with torch.no_grad():
            logits[name] = verb._network(name, settings, deform_layers=2)(image)
    torch.testing.assert_close(logits[verb.THEIRS], logits[verb.OURS], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(logits[verb.PLAIN], logits[verb.OURS], rtol=0.1, atol=0.1)


def test_without_torchvision_the_others_are_timed_and_a_line_says_so(monkeypatch, capsys, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(verb, "find_spec", lambda name: None if name == "torchvision" else found(name))
    file = tmp_path / "figures.json"
    verb.benchmark_train(**SMALL, rounds=2, json=str(file))
    assert len(json.loads(file.read_text())["rows"]) == 2
    assert "torchvision is not installed; its operator is left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"rounds": 1}, "at least 2 rounds"),
        ({"deform_layers": 0}, "deform_layers 0 .* 1 of the others"),
        ({"deform_layers": 99}, "deform_layers is 99, but this encoder has"),
        ({"encoder": "resnet5"}, "did you mean resnet50"),
        ({"device": "tpu"}, "must be cpu or cuda"),
        ({"size": 50}, "size is 50; give --size a multiple of 16"),
        ({"architecture": "deeplabv3plus"}, "batch is 1, .* give --batch 2 or more"),
        ({"json": "nowhere/x.json"}, "must be a file in a folder that exists"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings, message):
    with pytest.raises(UserValueError, match=message) as caught:
        verb.benchmark_train(**{**SMALL, "torchvision": False, **settings})
    assert "\n" not in str(caught.value)
