"""`segdcn convert` on the command line: what it writes, that it computes the same, what it refuses."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
import yaml
from torch import nn

import segdcn
from segdcn import cli
from segdcn.errors import InvalidDataError
from segdcn.layers import DeformableConv2d
from segdcn.models import build_deeplab
from segdcn.models.weights import WeightsFile, find_deeplab
from segdcn.run import read_checkpoint
from segdcn.verbs import convert as verb


def convert(*arguments):
    return cli.main(["convert", *map(str, arguments)])


def random_deeplab(name, num_classes, aux):
    """Make a network of torchvision whose statistics, and logits, differ from place to place."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.segmentation, name)
    network = build(weights=None, weights_backbone=None, num_classes=num_classes, aux_loss=aux)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    nn.init.normal_(network.classifier[4].weight)
    return network.eval()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A DeepLabV3 of torchvision with three classes, as a file and as it is."""
    network = random_deeplab("deeplabv3_resnet50", 3, aux=True)
    path = tmp_path_factory.mktemp("source") / "deeplab.pth"
    torch.save({"model": network.state_dict(), "epoch": 3}, path)
    return path, network


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    torch.manual_seed(0)
    weights = torchvision.models.resnet18(weights=None).state_dict()
    path = tmp_path_factory.mktemp("resnet") / "resnet.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, path)
    return path, weights


@pytest.fixture
def data(tmp_path):
    """The YAML of three classes, with a normalisation of its own."""
    settings = {"root": "nowhere", "classes": {"sky": [1, 2, 3], "road": [4, 5, 6], "car": [7, 8, 9]}}
    described = {"class_path": "segdcn.data.Folder", "init_args": {**settings, "mean": [0.5, 0.4, 0.3]}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return tmp_path / "data.yaml"


@torch.no_grad()
def assert_same_logits(network, source):
    """Before upsampling, of both heads; float32 sums in another order."""
    image = torch.randn(2, 3, 64, 96)
    features, expected = network.encoder(image), source.backbone(image)
    logits = network.segmentation_head[0](network.decoder(features))
    coarse = source.classifier(expected["out"])
    assert coarse.std() > 0.1 * coarse.abs().max()
    assert (logits - coarse).abs().max() < 1e-5 * coarse.abs().max()
    if source.aux_classifier is not None:
        auxiliary = source.aux_classifier(expected["aux"])
        found = nn.Sequential(*list(network.auxiliary_head)[:-1])(features[-2])
        assert (found - auxiliary).abs().max() < 1e-5 * auxiliary.abs().max()


def test_a_network_of_torchvision_gives_the_same_logits(source, data, tmp_path, capsys):
    path, network = source
    place, report = tmp_path / "a.ckpt", tmp_path / "a.json"
    arguments = (path, "--data", data, "--deform_layers=3", "--output", place, "--json", report)
    assert convert(*arguments) == 0
    said = capsys.readouterr().out
    assert "DeepLabV3, resnet50, 3 classes, an auxiliary head" in said and "numbered" not in said
    predictor = segdcn.load(place)
    assert_same_logits(predictor.network, network)
    described = predictor.description
    assert described.class_names == ["sky", "road", "car"] and described.palette == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert (described.mean, described.std) == ([0.5, 0.4, 0.3], [0.229, 0.224, 0.225])
    assert predictor.predict(torch.zeros(50, 70, 3, dtype=torch.uint8).numpy()).shape == (50, 70)
    facts = json.loads(report.read_text())
    assert facts["key"] == "model" and facts["settings"]["deform_layers"] == 3
    assert [one["shape"] for one in facts["comparisons"]] == [[3, 3, 40, 64], [1, 3, 72, 32]]
    # Settings of training are for the run that goes on with it, so none is kept but what makes the network.
    checkpoint = read_checkpoint(place)
    assert "lr" not in checkpoint["hyper_parameters"] and checkpoint["weights_sha256"] == described.weights_sha256


@pytest.mark.slow
def test_a_network_that_differs_is_not_left_and_the_exit_code_is_1(source, tmp_path, monkeypatch, capsys):
    """Such as one whose dilated stages are dilated from their first block on."""
    find = verb.find_deeplab

    def abrupt(file):
        found = find(file)
        found.settings["gradual_dilation"] = False
        return found

    monkeypatch.setattr(verb, "find_deeplab", abrupt)
    assert convert(source[0], "--output", tmp_path / "a.ckpt") == 1
    said = capsys.readouterr().out
    assert "a.ckpt was not written" in said and "(allowed: " in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("aux", [True, False])
def test_resnet101_and_numbered_classes(aux, tmp_path, capsys):
    network = random_deeplab("deeplabv3_resnet101", 21, aux)
    torch.save(network.state_dict(), tmp_path / "deeplab.pth")
    assert convert(tmp_path / "deeplab.pth") == 0
    assert "the classes are numbered" in capsys.readouterr().out
    predictor = segdcn.load(tmp_path / "deeplab-network.ckpt")
    assert_same_logits(predictor.network, network)
    assert predictor.class_names[:2] == ["class 0", "class 1"] and len(predictor.class_names) == 21


@pytest.mark.slow
def test_a_converted_network_is_measured_and_trained_on(tmp_path, monkeypatch):
    """With any optimizer, since none has worked on it yet; what comes of it is a checkpoint like others."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "make-shapes", "--output=shapes", "--train=4", "--val=2", "--size=64"]) == 0
    (tmp_path / "shapes.yaml").write_text("class_path: segdcn.data.Shapes\ninit_args: {root: shapes, crop_size: 64}\n")
    torch.save(random_deeplab("deeplabv3_resnet50", 7, aux=True).state_dict(), "a.pth")
    assert convert("a.pth", "--data=shapes.yaml", "--deform_layers=2", "--output=a.ckpt") == 0
    flags = ["--data=shapes.yaml", "--data.batch_size=2", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    flags += ["--wandb=off", "--ckpt_path=a.ckpt", "--trainer.max_epochs=1", "--model.optimizer=adamw"]
    assert cli.main(["validate", *flags[:4], "--wandb=off", "--ckpt_path=a.ckpt"]) == 0
    assert cli.main(["fit", *flags, "--name=on"]) == 0
    assert cli.main(["fit", *flags[:5], "--name=on", "--ckpt_path=last", "--trainer.max_epochs=2"]) == 0
    checkpoint = read_checkpoint(next(tmp_path.glob("runs/on/*/checkpoints/last.ckpt")))
    assert checkpoint["global_step"] == 4 and checkpoint["hyper_parameters"]["gradual_dilation"]


def test_an_encoder_is_written_for_encoder_weights(resnet, tmp_path, capsys):
    path, weights = resnet
    place = tmp_path / "encoder.safetensors"
    assert convert(path, "--output", place, "--json", tmp_path / "a.json") == 0
    said = capsys.readouterr().out
    assert "resnet18; left out: fc (2 weights)" in said
    assert f"--model.encoder resnet18 --model.encoder_weights {place}" in said
    settings = {"encoder": "resnet18", "encoder_weights": str(place)}
    assert json.loads((tmp_path / "a.json").read_text())["settings"] == settings
    found = build_deeplab(**settings, deform_layers=0).encoder.state_dict()
    assert found.keys() == weights.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, weights[name]) for name, value in found.items())


def test_the_encoder_of_a_network_can_be_taken_alone(source, tmp_path, capsys):
    assert convert(source[0], "--part=encoder", "--output", tmp_path / "a.safetensors") == 0
    said = capsys.readouterr().out
    assert "resnet50; left out: classifier (44 weights), aux_classifier (8 weights)" in said
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    expected = source[1].backbone.state_dict()
    assert found.keys() == expected.keys() and torch.equal(found["conv1.weight"], expected["conv1.weight"])


def test_layers_of_mmcv_are_converted_in_any_network(tmp_path, capsys):
    """One layer of its own, as in tests/layers/test_mmcv.py; here it goes through files."""
    layer = DeformableConv2d(4, 4, 3)
    nn.init.normal_(layer.offset_conv.weight)
    theirs = {f"neck.{name.replace('offset_conv', 'conv_offset')}": value for name, value in layer.state_dict().items()}
    theirs["neck.weight"] = theirs["neck.weight"] * 2
    theirs["head.weight"] = torch.ones(1, dtype=torch.float16)
    safetensors.torch.save_file(theirs, tmp_path / "detector.safetensors")
    assert convert(tmp_path / "detector.safetensors", "--part=layers") == 0
    assert "converted 1 layers: neck" in capsys.readouterr().out
    found = safetensors.torch.load_file(tmp_path / "detector-layers.safetensors")
    assert torch.equal(found.pop("head.weight"), torch.ones(1, dtype=torch.float16))
    layer.load_state_dict({name.removeprefix("neck."): value for name, value in found.items()})
    assert torch.equal(layer.weight, theirs["neck.weight"] / 2)


def test_nothing_is_overwritten_unless_told_and_never_the_source(resnet, tmp_path, capsys):
    path = tmp_path / "a.safetensors"
    assert convert(resnet[0], "--output", path) == 0
    before = safetensors.torch.load_file(path)
    assert convert(resnet[0], "--output", path) == cli.EXIT_USER_ERROR
    assert "a.safetensors exists; choose another --output, or pass --overwrite true" in capsys.readouterr().err
    assert convert(resnet[0], "--output", path, "--overwrite") == 0
    (tmp_path / "folder").mkdir()
    for same in (path, tmp_path / "folder" / ".." / path.name):
        assert convert(path, "--output", same, "--overwrite") == cli.EXIT_USER_ERROR
        assert "which is what it would be made from; choose another" in capsys.readouterr().err
    (tmp_path / "folder").rmdir()
    after = safetensors.torch.load_file(path)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--part=network"], "holds no DeepLabV3 of torchvision"),
        (["--part=layers"], "holds no deformable layer of mmcv"),
        (["--part=head"], "head"),
        (["--output=a.pth"], "a file of this format ends in .safetensors"),
        (["--output=no/a.safetensors"], "no is not a folder that can be written to"),
        (["--json=no/a.json"], "json is no/a.json"),
        (["--deform_layers=3"], "data and deform_layers are for a network, but what is converted is: encoder"),
        (["--data=none.yaml"], "none.yaml does not exist"),
        (["--key=model"], "key is 'model', but"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(resnet, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert convert(resnet[0], *flags) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [] and list(resnet[0].parent.iterdir()) == [resnet[0]]


def test_networks_that_are_not_quite_torchvisions_are_refused(source):
    weights = source[1].state_dict()
    small = {name: value for name, value in weights.items() if not name.startswith("backbone")}
    small |= {f"backbone.{name}": value for name, value in torchvision.models.resnet18().state_dict().items()}
    for changed, message in [
        (
            weights | {"classifier.1.weight": torch.zeros(256, 256, 1, 1)},
            "is not torchvision's deeplabv3_resnet50: 1 of another shape .classifier.1.weight",
        ),
        (weights | {"backbone.fc.weight": torch.zeros(1)}, r"1 unexpected \(backbone.fc.weight\)"),
        (weights | {"aux_classifier.4.bias": torch.zeros(9)}, r"1 of another shape \(aux_classifier.4.bias"),
        (small, "a DeepLabV3 on resnet18; torchvision's are on resnet50, resnet101"),
    ]:
        with pytest.raises(InvalidDataError, match=message):
            find_deeplab(WeightsFile(Path("a.pth"), changed))


def test_data_of_another_number_of_classes_is_refused(source, data, tmp_path, capsys):
    content = yaml.safe_load(data.read_text())
    content["init_args"]["classes"]["snow"] = [0, 0, 0]
    data.write_text(yaml.safe_dump(content))
    assert convert(source[0], "--data", data, "--output", tmp_path / "a.ckpt") == cli.EXIT_USER_ERROR
    assert "the data has 4 classes, but the network gives logits of 3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [data]


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as stopped:
        convert("--help")
    assert stopped.value.code == 0
    assert "segdcn convert deeplabv3_resnet50_coco" in capsys.readouterr().out
