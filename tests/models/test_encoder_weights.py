"""`encoder_weights: FILE`: the same features as in the network that the weights come from, or one line."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from segdcn.errors import InvalidDataError, MissingFileError, UserError, UserValueError
from segdcn.models import build_deeplab
from segdcn.models.weights import WeightsFile, find_encoder, read_weights


def lively(network):
    """Give normalisation statistics and factors that matter."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values, 0.5, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def features(network, image):
    """The last feature map of torchvision's and timm's networks, which have the same parts."""
    x = network.maxpool(torch.relu(network.bn1(network.conv1(image))))
    return network.layer4(network.layer3(network.layer2(network.layer1(x))))


@pytest.fixture(scope="module")
def resnet18():
    torch.manual_seed(0)
    return lively(torchvision.models.resnet18(weights=None))


def saved(folder, weights, name="weights.pth"):
    torch.save(weights, folder / name)
    return str(folder / name)


def build(weights, **settings):
    plain = {"architecture": "deeplab", "encoder": "resnet18", "output_stride": 32, "deform_layers": 0}
    return build_deeplab(**{**plain, "encoder_weights": weights, "num_classes": 2, **settings}).eval()


def assert_same(found, expected):
    """Float32 sums in another order, through up to 50 layers."""
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.resnext50_32x4d(weights=None),
        lambda: timm.create_model("resnet34"),
        lambda: timm.create_model("resnet18", num_classes=0),
    ],
    ids=["torchvision resnext50_32x4d", "timm resnet34", "timm resnet18 without head"],
)
def test_features_are_those_of_the_source(make, tmp_path, request):
    torch.manual_seed(0)
    source, image = lively(make()), torch.randn(1, 3, 64, 64)
    network = build(saved(tmp_path, source.state_dict()), encoder=request.node.callspec.id.split()[1])
    assert_same(network.encoder(image)[-1], features(source, image))


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone.", "_orig_mod.", "network.encoder."])
def test_any_prefix_is_recognised_and_what_lies_beside_is_named(resnet18, prefix, tmp_path, caplog):
    """In mmsegmentation a backbone's weights are called as in torchvision, behind `backbone.`."""
    caplog.set_level("INFO", "segdcn")
    weights = {prefix + name: value for name, value in resnet18.state_dict().items()}
    outer = prefix[: prefix[:-1].rfind(".") + 1]  # `module.` of `module.backbone.`
    weights[f"{outer}decode_head.conv_seg.weight"] = torch.zeros(1)
    network = build(saved(tmp_path, {"state_dict": weights}))
    image = torch.randn(1, 3, 64, 64)
    assert_same(network.encoder(image)[-1], features(resnet18, image))
    assert "left out fc (2 weights), decode_head (1 weights)" in caplog.text


def test_a_checkpoint_of_segdcn_gives_its_encoder(tmp_path):
    """With the offsets it has learnt, and to a network of another head."""
    source = build(None, deform_layers=2, architecture="deeplabv3", output_stride=16)
    for name, parameter in source.named_parameters():
        if "offset_conv" in name:
            nn.init.normal_(parameter)
    weights = {f"network.{name}": value for name, value in source.state_dict().items()}
    path = saved(tmp_path, {"state_dict": weights, "hyper_parameters": {}})
    found = build(path, deform_layers=2).encoder.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in source.encoder.state_dict().items())


def test_deformable_layers_without_weights_start_at_zero_and_a_line_says_so(resnet18, tmp_path, caplog):
    caplog.set_level("INFO", "segdcn")
    network = build(saved(tmp_path, resnet18.state_dict()), deform_layers=3)
    assert "the offsets of 3 layers start at zero" in caplog.text
    assert not network.encoder.layer4[1].conv2.offset_conv.weight.any()
    assert torch.equal(network.encoder.layer4[1].conv2.weight, resnet18.layer4[1].conv2.weight)


# Deformable layers of mmcv


class Pack(nn.Conv2d):
    """What mmcv's DCN and DCNv2 compute, by torchvision's operator."""

    def __init__(self, conv, groups, modulated):
        super().__init__(conv.in_channels, conv.out_channels, 3, conv.stride, conv.padding, bias=False)
        self.conv_offset = nn.Conv2d(conv.in_channels, (2 + modulated) * groups * 9, 3, conv.stride, conv.padding)
        nn.init.normal_(self.conv_offset.weight, std=0.02)
        nn.init.normal_(self.conv_offset.bias)
        self.modulated = modulated

    def forward(self, x):
        """Offsets first, then factors."""
        field = self.conv_offset(x)
        number = field.shape[1] * 2 // 3 if self.modulated else field.shape[1]
        mask = field[:, number:].sigmoid() if self.modulated else None
        where = (self.stride, self.padding, self.dilation)
        return torchvision.ops.deform_conv2d(x, field[:, :number], self.weight, None, *where, mask)


def with_packs(*names, groups=1, modulated=True):
    torch.manual_seed(0)
    network = lively(torchvision.models.resnet18(weights=None))
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, Pack(network.get_submodule(name), groups, modulated))
    return network


@torch.no_grad()
@pytest.mark.parametrize(("groups", "modulated"), [(1, True), (2, True), (1, False), (4, False)])
def test_deformable_layers_of_mmcv_compute_the_same(groups, modulated, tmp_path):
    """In the second last stage alone: the last one's layers are made deformable too, and change nothing."""
    source = with_packs("layer3.0.conv2", "layer3.1.conv2", groups=groups, modulated=modulated)
    path = saved(tmp_path, {f"backbone.{name}": value for name, value in source.state_dict().items()})
    settings = {"deform_layers": 7, "modulated": modulated, "offset_groups": groups}
    assert find_encoder(read_weights(tmp_path / "weights.pth")).deformable == settings
    image = torch.randn(1, 3, 64, 96)
    network = build(path, **settings)
    assert_same(network.encoder(image)[-1], features(source, image))


@pytest.mark.parametrize("settings", [{}, {"deform_layers": 1}, {"deform_layers": 3, "modulated": False}])
def test_a_network_without_these_deformable_layers_is_told_its_settings(settings, tmp_path):
    path = saved(tmp_path, with_packs("layer4.1.conv1").state_dict())
    with pytest.raises(
        UserValueError, match="set model.deform_layers: 2, model.modulated: true, model.offset_groups: 1"
    ):
        build(path, **settings)


def test_deformable_layers_of_two_kinds_are_refused():
    weights = with_packs("layer4.1.conv1").state_dict() | with_packs("layer4.1.conv2", modulated=False).state_dict()
    with pytest.raises(
        InvalidDataError, match="several kinds .version 1 with 1 offset groups, version 2 with 1 offset"
    ):
        found_in(weights)


def test_offsets_without_their_convolution_are_refused():
    weights = with_packs("layer4.1.conv2").state_dict()
    weights["layer4.1.conv9.offset_conv.weight"] = torch.zeros(27, 512, 3, 3)
    with pytest.raises(
        InvalidDataError, match="layer4.1.conv9.offset_conv.weight belongs to no 3x3 convolution of res"
    ):
        found_in(weights)


# What is refused


def found_in(weights, settings=""):
    return find_encoder(WeightsFile(Path("weights.pth"), dict(weights), settings=settings))


def without(weights, part):
    return {name: value for name, value in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda given: given | {"bn9.weight": torch.zeros(1)},
            r"against resnet18, 1 unexpected \(bn9.weight\)",
        ),
        (
            lambda given: without(given, "layer2.0.conv1"),
            r"against resnet18, 1 missing \(layer2.0.conv1.weight\)",
        ),
        (
            lambda given: without(given | {"layer1.0.conv1.weight": torch.zeros(9, 64, 3, 3)}, "layer2.0.bn1"),
            r"5 missing \(layer2.0.bn1.bias, .*, ...\), 1 of another shape \(layer1.0.conv1.weight \(9, 64, 3, 3\), ",
        ),
        (lambda given: given | {"conv1.weight": torch.zeros(64, 4, 7, 7)}, "reads 4 channels"),
        (lambda given: given | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, r"with a kernel of \(3, 3\)"),
        (lambda given: given | {"layer2.0.downsample.1.weight": torch.zeros(128, 64, 1, 1)}, "its shortcuts pool"),
        (lambda given: without(given, "layer4.1"), r"none has stages of \[2, 2, 2, 1\] blocks"),
        (lambda given: without(given, "running"), "has no batch normalisation with statistics"),
        (lambda given: without(given, "layer1"), "holds no ResNet: no weight is called layer1.0.conv1.weight"),
        (lambda given: given | {f"student.{name}": value for name, value in given.items()}, "holds 2 ResNets"),
    ],
)
def test_other_weights_are_refused_with_the_reason(resnet18, change, message):
    with pytest.raises(UserError, match=message) as caught:
        found_in(change(resnet18.state_dict()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18d", "begins with three 3x3 convolutions"),
        ("seresnet18", "weight channels"),
    ],
)
def test_other_kinds_of_resnets_are_refused_with_the_reason(name, message):
    with pytest.raises(InvalidDataError, match=message):
        found_in(timm.create_model(name).state_dict())


def test_mmsegmentations_other_stem_and_style_are_refused(resnet18):
    """V1c has other weights; the style caffe has the same, and only the configuration beside them tells."""
    weights = {f"backbone.{name}": value for name, value in resnet18.state_dict().items()}
    config = "model = dict(backbone=dict(type='ResNet', depth=18, style='{}'))"
    assert found_in(weights, config.format("pytorch")).name == "resnet18"
    with pytest.raises(InvalidDataError, match="of the style 'caffe'"):
        found_in(weights, config.format("caffe"))
    with pytest.raises(InvalidDataError, match="begins with three 3x3 convolutions .*V1c"):
        found_in({name.replace("backbone.conv1", "backbone.stem.0"): value for name, value in weights.items()})


def test_a_foreign_checkpoint_of_a_small_resnet_is_refused(test_data):
    """A real file: ResNet-20 for CIFAR-10, with `module.` before its names, three stages and a 3x3 stem."""
    with pytest.raises(InvalidDataError, match=r"first convolution reads 3 channels with a kernel of \(3, 3\)"):
        build(str(test_data / "checkpoints" / "resnet20-12fca82f.th"))


def test_the_setting_to_change_is_named(resnet18, tmp_path):
    path = saved(tmp_path, resnet18.state_dict())
    with pytest.raises(UserValueError, match="are those of resnet18; set model.encoder: resnet18"):
        build(path, encoder="resnet34")
    with pytest.raises(MissingFileError, match="none.pth does not exist"):
        build(str(tmp_path / "none.pth"))
