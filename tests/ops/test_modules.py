"""DeformConv2d, beside torchvision's of the same name."""

import inspect

import numpy as np
import pytest
import torch
import torchvision

from segdcn.ops import DeformConv2d, deform_conv2d

Theirs = torchvision.ops.DeformConv2d
CASES = [
    {"kernel_size": 3},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0), "dilation": (1, 2), "groups": 2, "bias": False},
    {"kernel_size": 1, "bias": True, "groups": 4},
]


@pytest.mark.parametrize("settings", CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_torchvisions_with_another_import(settings, masked):
    """The same seed gives the same parameters, result and text; state dicts fit both ways."""
    torch.manual_seed(0)
    ours = DeformConv2d(8, 12, **settings)
    torch.manual_seed(0)
    theirs = Theirs(8, 12, **settings)
    assert repr(ours) == repr(theirs)
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    assert {n: v for n, v in vars(theirs).items() if n[0] != "_"}.items() <= vars(ours).items()

    input = torch.randn(2, 8, 9, 7)
    kh, kw = ours.kernel_size
    size = torch.nn.functional.conv2d(input, ours.weight, None, ours.stride, ours.padding, ours.dilation, ours.groups)
    offset = torch.randn(2, 2 * kh * kw * 2, *size.shape[2:])
    mask = torch.rand(2, kh * kw * 2, *size.shape[2:]) if masked else None
    torch.testing.assert_close(ours(input, offset, mask), theirs(input, offset, mask), rtol=1e-4, atol=1e-5)


def test_the_arguments_are_torchvisions_in_their_order():
    ours, theirs = inspect.signature(DeformConv2d), inspect.signature(Theirs)
    for name, parameter in theirs.parameters.items():
        assert ours.parameters[name].default == parameter.default
    assert list(ours.parameters)[: len(theirs.parameters)] == list(theirs.parameters)
    assert list(inspect.signature(DeformConv2d.forward).parameters) == list(
        inspect.signature(Theirs.forward).parameters
    )


@pytest.mark.parametrize("channels,name", [((6, 8), "in_channels"), ((8, 6), "out_channels")])
def test_channels_that_do_not_divide_are_refused(channels, name):
    with pytest.raises(ValueError, match=f"{name} is 6, but must be a multiple of groups"):
        DeformConv2d(*channels, 3, groups=4)


def test_device_and_dtype_are_taken():
    layer = DeformConv2d(4, 4, 3, device="meta", dtype=torch.bfloat16)
    assert layer.weight.device.type == "meta" and layer.weight.dtype == torch.bfloat16


def test_any_integral_type_is_taken():
    layer = DeformConv2d(4, 4, np.int64(3), padding=(np.int64(1),) * 2, stride=[np.int32(2), 1])
    assert (layer.kernel_size, layer.padding, layer.stride) == ((3, 3), (1, 1), (2, 1))
    assert repr(layer) == "DeformConv2d(4, 4, kernel_size=(3, 3), stride=(2, 1), padding=(1, 1))"
    output = deform_conv2d(torch.ones(1, 1, 1, 1), torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 1, 1), padding=np.int64(1))
    assert output.sum() == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 0},
        {"kernel_size": (3, 3, 3)},
        {"stride": True},
        {"padding": np.True_},
        {"padding": torch.ones(())},
        {"dilation": -1},
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} is .*, but must be an int or"):
        DeformConv2d(4, 4, **({"kernel_size": 3} | settings))
