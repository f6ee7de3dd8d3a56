import pytest
import torch
import torchvision
from torch import nn

from segdcn.errors import UserValueError
from segdcn.layers import (
    DeformablePSRoIPool,
    DeformableRoIPool,
    ModulatedDeformableRoIPool,
    MultiScaleDeformableRoIPool,
)
from segdcn.layers.deform_roi_pool import as_rois
from segdcn.ops import deform_psroi_pool

LAYERS = [DeformableRoIPool, ModulatedDeformableRoIPool]
BOXES = [torch.tensor([[2.0, 3, 20, 17], [0, 0, 9, 30]]), torch.zeros(0, 4), torch.tensor([[5.0, 5, 25, 12]])]


def image(device) -> torch.Tensor:
    return torch.randn(3, 6, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_fresh_layer_is_plain_pooling(layer, device):
    """Of torchvision's, from a list of boxes per image and from (R, 5)."""
    pool = layer(6, (3, 2), 0.5, 2, hidden=8).to(device)
    boxes = [box.to(device) for box in BOXES]
    expected = torchvision.ops.roi_align(image(device), boxes, (3, 2), 0.5, 2, aligned=True)
    torch.testing.assert_close(pool(image(device), boxes), expected)
    torch.testing.assert_close(pool(image(device), as_rois(boxes)), expected)


def test_a_fresh_position_sensitive_layer_is_plain_pooling(device):
    layer = DeformablePSRoIPool(6, 4, 3, classes=2, spatial_scale=0.5).to(device)
    boxes = [box.to(device) for box in BOXES]
    rois = as_rois(boxes)
    expected = deform_psroi_pool(layer.score_conv(image(device)), rois, output_dim=4, group_size=3, spatial_scale=0.5)
    torch.testing.assert_close(layer(image(device), boxes), expected)
    assert layer.predict_offsets(image(device), rois).shape == (3, 4, 3, 3)


@pytest.mark.parametrize("make", [lambda: DeformableRoIPool(6, 3, 0.5, hidden=8), lambda: DeformablePSRoIPool(6, 4, 3)])
def test_offsets_receive_a_gradient_from_the_first_step(make, device):
    """Zero offsets are no dead end: the slope of the map moves them."""
    layer = make().to(device)
    layer(image(device), [box.to(device) for box in BOXES]).square().sum().backward()
    last = layer.offset_conv if isinstance(layer, DeformablePSRoIPool) else layer.offset_fc[-1]
    assert (last.bias.grad.abs() > 0).all()


def test_modulation_scales_each_bin(device):
    """2 * sigmoid(ln 3) = 1.5 in the second bin."""
    layer = ModulatedDeformableRoIPool(6, (1, 2), 0.5, 2, hidden=8).to(device)
    rois = as_rois([box.to(device) for box in BOXES])
    plain = layer(image(device), rois)
    layer.mask_fc[-1].bias.data[1] = torch.log(torch.tensor(3.0))
    got = layer(image(device), rois)
    torch.testing.assert_close(got[..., 0], plain[..., 0])
    torch.testing.assert_close(got[..., 1], 1.5 * plain[..., 1])


def test_a_horizontal_offset_moves_every_bin_right(device):
    """On a ramp of slope 1, gamma 0.1 * width 10 * offset 2 = 2."""
    ramp = torch.arange(40.0, device=device).expand(1, 1, 30, 40)
    layer = DeformableRoIPool(1, 2, sampling_ratio=2, hidden=4).to(device)
    rois = torch.tensor([[0.0, 5, 5, 15, 25]], device=device)
    still = layer(ramp, rois)
    layer.offset_fc[-1].bias.data[:4] = 2
    torch.testing.assert_close(layer(ramp, rois), still + 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_offsets_stay_float32_under_autocast(dtype, device):
    boxes = [box.to(device) for box in BOXES]
    for layer in (DeformableRoIPool(6, 3, 0.5, hidden=8), DeformablePSRoIPool(6, 4, 3)):
        layer = layer.to(device)
        with torch.autocast(device.type, dtype=dtype):
            assert layer.predict_offsets(image(device), boxes).dtype == torch.float32
            assert layer(image(device), boxes).dtype == dtype


@pytest.mark.parametrize("layer", LAYERS)
def test_no_boxes_give_nothing(layer):
    pool = layer(6, 3, hidden=8)
    output = pool(torch.randn(1, 6, 8, 8), [torch.zeros(0, 4)])
    assert output.shape == (0, 6, 3, 3)
    output.sum().backward()


@pytest.mark.parametrize("boxes", [torch.zeros(3, 4), [torch.zeros(3, 5)], []])
def test_boxes_of_another_shape_are_refused(boxes):
    with pytest.raises(UserValueError, match="boxes ha"):
        DeformableRoIPool(6, 3, hidden=8)(torch.randn(1, 6, 8, 8), boxes)


def test_classes_that_do_not_divide_the_output_are_refused():
    with pytest.raises(UserValueError, match="classes is 3"):
        DeformablePSRoIPool(6, 4, 3, classes=3)


def test_the_pyramid_reads_the_levels_that_torchvision_reads():
    shapes = [(256, 320), (200, 300)]
    names = ["0", "1", "2", "3"]
    maps = {n: torch.randn(2, 6, -(-256 // 2**i), -(-320 // 2**i)) for n, i in zip(names, (2, 3, 4, 5), strict=True)}
    corner = torch.rand(40, 2) * 150
    boxes = [torch.cat([corner, corner + torch.rand(40, 2) ** 3 * 150 + 2], dim=1) for _ in shapes]
    theirs = torchvision.ops.MultiScaleRoIAlign(names, 7, 2)
    ours = MultiScaleDeformableRoIPool(DeformableRoIPool(6, 7, sampling_ratio=2, hidden=8), names)
    # MultiScaleRoIAlign does not shift by half a pixel, which moves the boxes by that much on each level.
    assert [*theirs(maps, boxes, shapes).shape] == [*ours(maps, boxes, shapes).shape] == [80, 6, 7, 7]
    rois = as_rois(boxes)
    for i, (roi, got) in enumerate(zip(rois, ours(maps, boxes, shapes), strict=True)):
        level = int(theirs.map_levels([box for box in boxes])[i]) + 2
        features = maps[names[level - 2]]
        expected = torchvision.ops.roi_align(features, roi[None], 7, 2.0**-level, 2, aligned=True)[0]
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_weights_of_mmcvs_layer_fit():
    """DeformRoIPoolPack: three linear layers called offset_fc, two of them followed by a ReLU."""
    theirs = nn.ModuleDict({"offset_fc": nn.Sequential(nn.Linear(54, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())})
    theirs["offset_fc"].append(nn.Linear(8, 18))
    DeformableRoIPool(6, 3, hidden=8).load_state_dict(theirs.state_dict())


def test_half_precision_boxes_are_read_as_the_numbers_they_are():
    """In float16 the area of 300x300 is infinite; in bfloat16 image 257 is 256."""
    assert as_rois([torch.tensor([[10.0, 10, 310, 310]]).half()]).dtype == torch.float32
    shapes = [(800, 1088)]
    maps = {str(i): torch.randn(1, 4, 800 // 2 ** (i + 2), 1088 // 2 ** (i + 2)) for i in range(4)}
    pool = MultiScaleDeformableRoIPool(DeformableRoIPool(4, 3, sampling_ratio=2, hidden=8), list(maps))
    boxes = torch.tensor([[10.0, 10, 310, 310], [40, 60, 340, 340], [0, 0, 20, 20]])
    torch.testing.assert_close(pool(maps, [boxes.half()], shapes), pool(maps, [boxes], shapes), rtol=0, atol=0)
    many = [torch.tensor([[0.0, 0, 3, 3]], dtype=torch.bfloat16)] * 300
    assert as_rois(many)[:, 0].tolist() == list(range(300))


def test_a_pyramid_may_lack_levels_and_name_them_in_any_order():
    maps = {"0": torch.randn(1, 4, 32, 40), "1": torch.randn(1, 4, 16, 20), "pool": torch.randn(1, 4, 8, 10)}
    boxes, shapes = [torch.tensor([[4.0, 4, 60, 70], [1, 1, 120, 140]])], [(128, 160)]
    layer = DeformableRoIPool(4, 3, sampling_ratio=2, hidden=8)
    expected = MultiScaleDeformableRoIPool(layer, ["0", "1"])(maps, boxes, shapes)
    for names in (["0", "1", "2", "3"], ["1", "0"]):
        assert torch.equal(MultiScaleDeformableRoIPool(layer, names)(maps, boxes, shapes), expected)
    backwards = dict(reversed(maps.items()))
    assert torch.equal(MultiScaleDeformableRoIPool(layer, ["0", "1"])(backwards, boxes, shapes), expected)
    with pytest.raises(UserValueError, match=r"levels \['0', '1', 'pool'\], but none of featmap_names \['p2'\]"):
        MultiScaleDeformableRoIPool(layer, ["p2"])(maps, boxes, shapes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeformableRoIPool(4, 2.0), "output_size is 2.0"),
        (lambda: DeformableRoIPool(4, (2,)), r"output_size is \(2,\)"),
        (lambda: DeformableRoIPool(4, 2, sampling_ratio=-1), "sampling_ratio is -1"),
        (lambda: DeformableRoIPool(4, 2, gamma=float("nan")), "gamma is nan"),
        (lambda: DeformableRoIPool(4, 2, 0), "spatial_scale is 0"),
        (lambda: DeformablePSRoIPool(4, 4, 0), "group_size is 0"),
        (lambda: MultiScaleDeformableRoIPool(DeformablePSRoIPool(4, 4, 2), ["0"]), "layer is a DeformablePSRoIPool"),
        (lambda: DeformableRoIPool(4, 2)(torch.randn(1, 3, 8, 8), torch.zeros(1, 5)), "input has 3 channels"),
        (lambda: DeformableRoIPool(4, 2)(torch.randn(1, 4, 8, 8), [[0, 0, 3, 3]]), "boxes is a list"),
    ],
)
def test_what_does_not_fit_is_said_where_it_is_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


class Pyramid(nn.Module):
    """A backbone of two levels, strides 4 and 8."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return both levels."""
        fine = self.stem(x)
        return {"0": fine, "1": self.down(fine)}


@pytest.mark.parametrize("layer", LAYERS)
def test_it_takes_the_place_of_the_pooler_in_a_faster_rcnn(layer):
    """One step trains; the offsets' layer gets a gradient and moves."""
    detection = torchvision.models.detection
    torch.manual_seed(0)
    anchors = detection.rpn.AnchorGenerator(((16,), (32,)), ((1.0,),) * 2)
    model = detection.FasterRCNN(Pyramid(), 3, min_size=64, max_size=96, rpn_anchor_generator=anchors)
    model.roi_heads.box_roi_pool = MultiScaleDeformableRoIPool(layer(8, 7, sampling_ratio=2, hidden=16), ["0", "1"])
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images = [torch.rand(3, 64, 80), torch.rand(3, 70, 64)]
    boxes = torch.tensor([[8.0, 8, 40, 44]])
    targets = [{"boxes": boxes, "labels": torch.tensor([1])}, {"boxes": boxes / 2, "labels": torch.tensor([2])}]
    losses = model(images, targets)
    sum(losses.values()).backward()
    last = model.roi_heads.box_roi_pool.layer.offset_fc[-1]
    assert torch.isfinite(last.weight.grad).all() and last.bias.grad.any()
    optimizer.step()
    assert last.bias.any()
    with torch.no_grad():
        assert len(model.eval()(images)) == 2
