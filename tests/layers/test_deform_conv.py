import copy

import pytest
import torch
from torch import nn

from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d, DeformableConv3d


def random_conv(**settings) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(12, 8, (3, 2), **{"stride": (2, 1), "padding": (1, 0), "dilation": (2, 1), **settings})


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("settings", [{}, {"groups": 4}, {"bias": False}])
def test_a_fresh_layer_equals_the_convolution_it_replaced(modulated, settings, device):
    conv = random_conv(**settings).double().to(device)
    layer = DeformableConv2d.from_conv(conv, modulated=modulated, offset_groups=2)
    image = torch.randn(2, 12, 9, 7, dtype=torch.float64, device=device)
    torch.testing.assert_close(layer(image), conv(image), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("modulated", [False, True])
def test_plain_weights_load_with_only_the_offset_keys_missing(modulated):
    conv = random_conv()
    layer = DeformableConv2d(12, 8, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 1), modulated=modulated)
    report = layer.load_state_dict(conv.state_dict(), strict=False)
    assert report.missing_keys == ["offset_conv.weight", "offset_conv.bias"]
    assert report.unexpected_keys == []


def test_the_twin_shares_the_parameters_and_the_mode_of_the_convolution():
    conv = random_conv().eval()
    layer = DeformableConv2d.from_conv(conv)
    assert layer.weight is conv.weight and layer.bias is conv.bias
    assert not layer.training


@pytest.mark.parametrize("modulated,fields", [(False, 24), (True, 36)])
def test_offsets_come_first_then_modulation(modulated, fields):
    """K = 6 taps, 2 offset groups: 2*2*6 offsets and, when modulated, 2*6 factors."""
    layer = DeformableConv2d(4, 3, (3, 2), modulated=modulated, offset_groups=2)
    assert layer.offset_conv.out_channels == fields
    layer.offset_conv.bias.data = torch.arange(float(fields)) / 10
    offset, mask = layer.predict_offsets(torch.zeros(1, 4, 5, 5))
    torch.testing.assert_close(offset[0, :, 0, 0], torch.arange(24.0) / 10)
    if modulated:
        torch.testing.assert_close(mask[0, :, 0, 0], 2 * torch.sigmoid(torch.arange(24.0, 36.0) / 10))
    else:
        assert mask is None


def test_offsets_receive_a_gradient_from_the_first_step(device):
    """Zero offsets are no dead end: the slope of the map moves them."""
    layer = DeformableConv2d(4, 3, 3, padding=1).to(device)
    layer(torch.randn(1, 4, 8, 8, device=device)).square().sum().backward()
    taps = layer.offset_conv.bias.grad
    assert (taps.abs() > 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_offsets_stay_float32_under_autocast_and_in_half_networks(dtype, device):
    layer = DeformableConv2d(4, 3, 3, padding=1).to(device)
    nn.init.normal_(layer.offset_conv.weight)
    image = torch.randn(1, 4, 8, 8, device=device)
    with torch.autocast(device.type, dtype=dtype):
        offset, mask = layer.predict_offsets(image)
        output = layer(image)
    assert offset.dtype == mask.dtype == torch.float32 and output.dtype == dtype
    torch.testing.assert_close(offset, layer.predict_offsets(image)[0])
    half = copy.deepcopy(layer).to(dtype)
    assert half.predict_offsets(image.to(dtype))[0].dtype == torch.float32
    assert half(image.to(dtype)).dtype == dtype


def test_it_runs_on_the_meta_device():
    layer = DeformableConv2d(4, 6, 3, padding=1, device="meta")
    assert layer(torch.empty(2, 4, 8, 8, device="meta")).shape == (2, 6, 8, 8)


def test_channels_last_stays_channels_last():
    layer = DeformableConv2d(4, 6, 3, padding=1)
    output = layer(torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last))
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "settings,message",
    [({"offset_groups": 3}, "offset_groups is 3"), ({"padding": "same"}, "padding is 'same'")],
)
def test_settings_it_does_not_have_are_refused(settings, message):
    with pytest.raises(UserValueError, match=message):
        DeformableConv2d(4, 3, 3, **settings)


def test_a_convolution_that_does_not_pad_with_zeros_has_no_twin():
    with pytest.raises(UserValueError, match="padding_mode is 'reflect'"):
        DeformableConv2d.from_conv(nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"))


# ---------------------------------------------------------------- three dimensions


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("settings", [{}, {"groups": 4}, {"bias": False}])
def test_a_fresh_layer_of_three_dimensions_equals_the_convolution_it_replaced(modulated, settings, device):
    torch.manual_seed(0)
    conv = nn.Conv3d(12, 8, (2, 3, 2), stride=(1, 2, 1), padding=(1, 1, 0), dilation=(1, 2, 1), **settings)
    conv = conv.double().to(device)
    layer = DeformableConv3d.from_conv(conv, modulated=modulated, offset_groups=2)
    assert isinstance(layer, nn.Conv3d) and layer.weight is conv.weight
    volume = torch.randn(2, 12, 4, 9, 7, dtype=torch.float64, device=device)
    torch.testing.assert_close(layer(volume), conv(volume), rtol=1e-12, atol=1e-12)
    assert layer.offset_conv.out_channels == (4 if modulated else 3) * 2 * 12
    report = layer.load_state_dict(conv.state_dict(), strict=False)
    assert report.missing_keys == ["offset_conv.weight", "offset_conv.bias"]


def test_offsets_of_three_dimensions_receive_a_gradient_from_the_first_step(device):
    layer = DeformableConv3d(4, 3, 3, padding=1).to(device)
    layer(torch.randn(1, 4, 5, 8, 8, device=device)).square().sum().backward()
    assert (layer.offset_conv.bias.grad.abs() > 0).all()


def test_volumes_in_channels_last_stay_so_and_autocast_keeps_the_offsets():
    layer = DeformableConv3d(4, 6, 3, padding=1)
    volume = torch.randn(2, 4, 3, 8, 8).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(volume)
        assert layer.predict_offsets(volume)[0].dtype == torch.float32
    assert output.dtype == torch.bfloat16
    assert output.is_contiguous(memory_format=torch.channels_last_3d)
