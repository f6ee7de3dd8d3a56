"""Weights of mmcv's layers, against a computation of what mmcv computes that uses no operator."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segdcn.errors import UserValueError
from segdcn.layers import DeformableConv2d, from_mmcv


class Pack(nn.Conv2d):
    """The parameters of mmcv's DeformConv2dPack (2 fields per tap) and ModulatedDeformConv2dPack (3)."""

    def __init__(self, *args, deform_groups, fields, **settings):
        super().__init__(*args, **settings)
        taps = self.kernel_size[0] * self.kernel_size[1]
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation)
        self.conv_offset = nn.Conv2d(self.in_channels, deform_groups * fields * taps, *sizes)
        self.deform_groups, self.fields = deform_groups, fields

    def forward(self, x):
        """Read number after number, as mmcv's kernels do."""
        field = self.conv_offset(x)
        if self.fields == 3:
            first, second, factors = torch.chunk(field, 3, dim=1)
            offset, factors = torch.cat((first, second), dim=1), factors.sigmoid()
        else:
            offset, factors = field, torch.ones(x.shape[0], field.shape[1] // 2, *field.shape[2:])
        batch, _, height, width = field.shape
        rows, columns = self.kernel_size
        output = torch.zeros(batch, self.out_channels, height, width)
        per_group, per_deform = self.in_channels // self.groups, self.in_channels // self.deform_groups
        for b, o, y, x_out in torch.cartesian_prod(*map(torch.arange, output.shape)).tolist():
            total = 0.0 if self.bias is None else self.bias[o].item()
            first_channel = o // (self.out_channels // self.groups) * per_group
            for c in range(first_channel, first_channel + per_group):
                group = c // per_deform
                for i in range(rows):
                    for j in range(columns):
                        tap = i * columns + j
                        channel = (group * rows * columns + tap) * 2
                        h = y * self.stride[0] - self.padding[0] + i * self.dilation[0]
                        w = x_out * self.stride[1] - self.padding[1] + j * self.dilation[1]
                        h += offset[b, channel, y, x_out].item()
                        w += offset[b, channel + 1, y, x_out].item()
                        factor = factors[b, group * rows * columns + tap, y, x_out].item()
                        total += self.weight[o, c - first_channel, i, j].item() * factor * read(x[b, c].tolist(), h, w)
            output[b, o, y, x_out] = total
        return output


def read(image, h, w):
    """Bilinear, on an image with zeros around it."""
    top, left, total = math.floor(h), math.floor(w), 0.0
    for y, share_y in ((top, top + 1 - h), (top + 1, h - top)):
        for x, share_x in ((left, left + 1 - w), (left + 1, w - left)):
            if 0 <= y < len(image) and 0 <= x < len(image[0]):
                total += share_y * share_x * image[y][x]
    return total


SHAPES = [
    {"kernel_size": 3, "padding": 2, "dilation": 2, "stride": 2},
    {"kernel_size": (3, 2), "padding": (1, 0), "stride": (2, 1), "groups": 2},
]


@pytest.mark.parametrize("settings", SHAPES, ids=["3x3", "3x2"])
@pytest.mark.parametrize("deform_groups", [1, 2])
@pytest.mark.parametrize("fields", [2, 3], ids=["DCN", "DCNv2"])
@torch.no_grad()
def test_a_converted_layer_computes_what_mmcvs_computes(settings, deform_groups, fields):
    torch.manual_seed(0)
    theirs = Pack(4, 2, bias=fields == 3, deform_groups=deform_groups, fields=fields, **settings)
    nn.init.normal_(theirs.conv_offset.bias)  # offsets of pixels, and factors far from a half
    modulated = fields == 3
    ours = DeformableConv2d(4, 2, bias=modulated, modulated=modulated, offset_groups=deform_groups, **settings)
    ours.load_state_dict(from_mmcv(theirs.state_dict()))
    image = torch.randn(2, 4, 6, 7)
    expected = theirs(image)
    torch.testing.assert_close(ours(image), expected, rtol=1e-4, atol=1e-5)  # float32 sums in another order
    # Not by chance: the offsets matter, and so does the order of their channels.
    assert not torch.allclose(F.conv2d(image, *list(ours.parameters())[:1], None, *plain(ours)), expected, rtol=0.01)
    ours.offset_conv.bias.copy_(ours.offset_conv.bias.roll(1))
    assert not torch.allclose(ours(image), expected, rtol=0.01)


def plain(layer):
    return layer.stride, layer.padding, layer.dilation, layer.groups


def test_the_vectors_of_mmcv(test_data):
    """A layer that mmcv itself ran: its numbers, through the weights' conversion."""
    import numpy as np

    path = test_data / "golden" / "published" / "mmcv_deform_conv_pack_fwd_bwd.npz"
    arrays = {name: torch.from_numpy(values).float() for name, values in np.load(path).items()}
    given = {"conv_offset.weight": arrays["offset_weight"], "conv_offset.bias": arrays["offset_bias"]}
    layer = DeformableConv2d(1, 1, 2, bias=False, modulated=False)
    layer.load_state_dict(from_mmcv({"weight": arrays["weight"], **given}))
    torch.testing.assert_close(layer(arrays["x"]), arrays["y"], rtol=1e-4, atol=1e-4)  # four digits were published


def test_at_the_start_of_dcnv2_its_half_is_kept():
    """Zero offsets and factors: there sigmoid(0) = 0.5 halves the layer, and so it must be here."""
    theirs = Pack(4, 6, kernel_size=3, padding=1, deform_groups=1, fields=3)
    nn.init.zeros_(theirs.conv_offset.weight)
    nn.init.zeros_(theirs.conv_offset.bias)
    ours = DeformableConv2d(4, 6, 3, padding=1)
    ours.load_state_dict(from_mmcv(theirs.state_dict()))
    image = torch.randn(1, 4, 8, 8)
    expected = F.conv2d(image, theirs.weight / 2, theirs.bias, padding=1)
    torch.testing.assert_close(ours(image), expected, rtol=1e-4, atol=1e-5)


def test_half_of_the_smallest_numbers_of_half_precision_is_exact_too():
    """2**-24 is the smallest that float16 has, and 3 * 2**-24 is odd: their halves need float32."""
    for smallest, dtype in ((2.0**-24, torch.float32), (3 * 2.0**-24, torch.float32), (2.0**-14, torch.float16)):
        theirs = {"weight": torch.full((2, 2, 3, 3), smallest, dtype=torch.float16)}
        theirs |= {"conv_offset.weight": torch.zeros(27, 2, 3, 3), "conv_offset.bias": torch.zeros(27)}
        found = from_mmcv(theirs)["weight"]
        assert found.dtype == dtype and (found == smallest / 2).all()


def test_in_a_network_only_deformable_layers_change_and_old_names_are_known():
    network = nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3), "conv2": Pack(4, 4, 3, deform_groups=4, fields=3)})
    given = network.state_dict()
    converted = from_mmcv(given)
    same = {"conv1.weight", "conv1.bias", "conv2.bias"}
    assert converted.keys() == {*same, "conv2.weight", "conv2.offset_conv.weight", "conv2.offset_conv.bias"}
    assert all(torch.equal(converted[name], given[name]) for name in same)
    assert torch.equal(converted["conv2.weight"], given["conv2.weight"] / 2)
    early = {name.replace("conv2.conv_offset", "conv2_offset"): value for name, value in given.items()}
    assert early.keys() != given.keys()
    assert all(torch.equal(value, converted[name]) for name, value in from_mmcv(early).items())


def zeros(**shapes):
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (zeros(a__conv_offset__weight=(18, 4, 3, 3), a__conv_offset__bias=(18,)), "no a.weight: only layers that own"),
        (zeros(a__conv_offset__weight=(18, 4, 3, 3), a__weight=(4, 4, 3, 3)), "no a.conv_offset.bias"),
        (
            zeros(a__conv_offset__weight=(18, 4, 1, 1), a__conv_offset__bias=(18,), a__weight=(4, 4, 3, 3)),
            "'a' is no deformable convolution of mmcv",
        ),
        (
            zeros(a__conv_offset__weight=(20, 4, 3, 3), a__conv_offset__bias=(20,), a__weight=(4, 4, 3, 3)),
            r"its shapes are weight \(4, 4, 3, 3\) and offsets \(20, 4, 3, 3\)",
        ),
        (zeros(norm_offset__weight=(4,), norm_offset__bias=(4,), norm__weight=(4,)), "'norm' is no deformable"),
        (
            zeros(conv_offset__weight=(54, 6, 3, 3), conv_offset__bias=(54,), weight=(4, 6, 3, 3)),
            "version 1 with 3 offset groups or version 2 with 2 offset groups",
        ),
    ],
)
def test_what_is_none_of_mmcvs_layers_is_refused_with_the_reason(weights, message):
    with pytest.raises(UserValueError, match=message):
        from_mmcv(weights)
