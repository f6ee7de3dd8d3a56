import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import nn

from segdcn.errors import UserError, UserValueError
from segdcn.layers import DeformableConv2d
from segdcn.models import ARCHITECTURES, ENCODERS, build_deeplab, build_encoder, deformable_layers, make_deformable


def build(**settings):
    return build_deeplab(**{"encoder": "resnet18", "num_classes": 5, **settings})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("encoder", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_fresh_deformable_layers_do_not_change_the_logits(architecture, encoder):
    """And plain weights load with only the offset keys missing."""
    torch.manual_seed(0)
    plain = build(architecture=architecture, encoder=encoder, deform_layers=0).eval()
    deformable = build(architecture=architecture, encoder=encoder, deform_layers=3).eval()
    report = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert report.unexpected_keys == []
    assert len(report.missing_keys) == 6 and all(".offset_conv." in key for key in report.missing_keys)
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected, logits = plain(image), deformable(image)
    assert logits.shape == (2, 5, 64, 96)
    # Float32 sums in another order, through up to 50 layers.
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_one_seed_gives_plain_and_deformable_networks_the_same_weights_logits_and_dropout():
    """Which makes runs with and without deformable layers comparable, seed by seed."""
    built = {}
    for layers in (0, 3):
        torch.manual_seed(3)
        network = build(architecture="deeplabv3", deform_layers=layers, auxiliary_head=True)
        built[layers] = (network.eval(), torch.rand(1))
    (plain, drawn), (deformable, also_drawn) = built.values()
    state = deformable.state_dict()
    for name, weight in plain.state_dict().items():
        assert torch.equal(state[name], weight), name
    assert torch.equal(drawn, also_drawn)
    image = torch.randn(2, 3, 32, 64)
    with torch.no_grad():
        expected, logits = plain(image), deformable(image)
    # Float32 sums in another order.
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_last_convolutions_are_the_deformable_ones():
    assert list(deformable_layers(build(encoder="resnet50", deform_layers=4))) == [
        "encoder.layer3.5.conv2",
        "encoder.layer4.0.conv2",
        "encoder.layer4.1.conv2",
        "encoder.layer4.2.conv2",
    ]
    assert list(deformable_layers(build(encoder="resnet18", deform_layers=3))) == [
        "encoder.layer4.0.conv2",
        "encoder.layer4.1.conv1",
        "encoder.layer4.1.conv2",
    ]
    assert deformable_layers(build(deform_layers=0)) == {}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_modules_of_every_listed_encoder_run_in_the_order_they_are_defined(encoder):
    """Which is what "the last n" relies on; by running them, on the meta device."""
    with torch.device("meta"):
        body = build_encoder(encoder)
        convs = {module: name for name, module in body.named_modules() if isinstance(module, nn.Conv2d)}
        order = []
        for module in convs:
            module.register_forward_hook(lambda module, *_: order.append(convs[module]))
        body.eval()(torch.empty(1, 3, 64, 64))
    defined = [name for module, name in convs.items() if module.kernel_size == (3, 3)]
    assert [name for name in order if name in defined] == defined


def test_the_encoder_list_is_smps():
    assert set(ENCODERS) == {name for name in smp.encoders.encoders if name.startswith(("resnet", "resnext"))}


@pytest.mark.parametrize("output_stride,dilations", [(16, {2}), (8, {4}), (32, {1})])
def test_the_output_stride_is_kept_by_dilation(output_stride, dilations):
    network = build(architecture="deeplab", encoder="resnet50", output_stride=output_stride)
    assert network.encoder(torch.randn(1, 3, 64, 64))[-1].shape[2:] == (64 // output_stride,) * 2
    layers = deformable_layers(network)
    assert len(layers) == 3
    assert {layer.dilation[0] for layer in layers.values()} == dilations


def test_the_dilation_of_the_last_stage_is_a_setting():
    """The paper's table 3 compares deformable layers with fixed dilations 2, 4, 6, 8."""
    network = build(architecture="deeplab", encoder="resnet50", deform_layers=0, dilation=6)
    spatial = [m for m in network.encoder.layer4.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [m.dilation for m in spatial] == [(6, 6)] * 3 == [m.padding for m in spatial]
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)


@pytest.mark.parametrize("output_stride,flags", [(16, [False, False, True]), (8, [False, True, True])])
def test_gradual_dilation_is_torchvisions(output_stride, flags):
    """The same features from the same weights, but for float32 sums in another order."""
    torch.manual_seed(0)
    ours = build_encoder("resnet50", None, output_stride, gradual_dilation=True).eval()
    theirs = torchvision.models.resnet50(weights=None, replace_stride_with_dilation=flags).eval()
    theirs.fc, theirs.avgpool = nn.Identity(), nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(image)
        allowed = 1e-5 * expected.abs().max()
        assert (ours(image)[-1].flatten(1) - expected).abs().max() < allowed
        abrupt = build_encoder("resnet50", None, output_stride).eval()
        abrupt.load_state_dict(ours.state_dict())
        assert (abrupt(image)[-1].flatten(1) - expected).abs().max() > 1e4 * allowed


def test_a_dilation_that_is_given_is_that_of_the_whole_stage():
    encoder = build_encoder("resnet50", None, 16, 6, gradual_dilation=True)
    assert [block.conv2.dilation for block in encoder.layer4] == [(6, 6)] * 3


def test_the_dilation_of_the_last_stage_is_that_of_deformable_layers_too():
    """Table 3 with and without deformable layers: a fresh one reads where the dilated convolution reads."""
    built = []
    for layers in (0, 3):
        torch.manual_seed(0)
        built.append(build(architecture="deeplab", encoder="resnet50", deform_layers=layers, dilation=4).eval())
    replaced = deformable_layers(built[1]).values()
    for conv in [*replaced, *(layer.offset_conv for layer in replaced)]:
        assert conv.dilation == conv.padding == (4, 4)
    image = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected, logits = (network(image) for network in built)
    # Float32 sums in another order.
    assert (logits - expected).abs().max() < 1e-4 * expected.abs().max()


def test_version_one_has_no_modulation():
    layers = deformable_layers(build(modulated=False, offset_groups=4)).values()
    assert all(not layer.modulated and layer.offset_conv.out_channels == 2 * 4 * 9 for layer in layers)


def test_a_network_trains_in_channels_last_and_bfloat16():
    network = build().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(image).float().square().mean()
    loss.backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"encoder": "resnet5"}, "did you mean resnet50"),
        ({"encoder": "mobilenet_v2"}, "encoder 'mobilenet_v2' is not one of resnet18"),
        ({"encoder_weights": "imagnet"}, "not published for resnet18; use null, a file or"),
        ({"architecture": "unet"}, "architecture 'unet' is not one of deeplab"),
        ({"output_stride": 4}, "output_stride is 4"),
        ({"output_stride": 32}, "must be 8 or 16 for deeplabv3plus"),
        ({"deform_layers": 99}, "deform_layers is 99, but this encoder has 16"),
        ({"deform_layers": -1}, "deform_layers is -1"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"dilation": 0}, "dilation is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings, message):
    with pytest.raises(UserValueError) as caught:
        build(**settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_name_the_setting_to_change(monkeypatch):
    import huggingface_hub.errors

    def offline(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nand more lines")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", offline)
    with pytest.raises(UserError, match=r"could not be downloaded \(no connection\).*encoder_weights: null"):
        build(encoder_weights="imagenet")


@pytest.mark.parametrize(
    "shape,message",
    [((2, 3, 100, 130), "use 96x128"), ((1, 3, 64, 64), "one image"), ((2, 1, 64, 64), "must be")],
)
def test_images_it_cannot_take_are_refused_by_size(shape, message):
    with pytest.raises(UserValueError, match=message):
        build().train()(torch.randn(shape))


def test_weights_behind_a_broken_proxy_are_a_users_line_too(monkeypatch):
    """Not every network failure is an OSError."""
    error = type("ProxyError", (Exception,), {"__module__": "httpx2"})

    def broken(*_, **__):
        raise error("proxy says no")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", broken)
    with pytest.raises(UserError, match="proxy says no"):
        build(encoder_weights="imagenet")


def test_making_more_layers_deformable_leaves_the_others_alone():
    encoder = build_encoder("resnet18")
    make_deformable(encoder, 2)
    make_deformable(encoder, 1)
    layers = deformable_layers(encoder)
    assert len(layers) == 3 and not any("offset_conv" in name for name in layers)


def test_make_deformable_works_on_any_encoder_and_tells_what_it_replaced():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1))
    assert make_deformable(encoder, 1) == ["2"]
    assert type(encoder[0]) is nn.Conv2d and isinstance(encoder[2], DeformableConv2d)
