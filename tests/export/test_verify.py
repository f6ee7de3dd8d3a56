"""When a file counts as the same: by numbers that can be checked by hand."""

import pytest
import torch
from torch import Tensor, nn

from segdcn.export.verify import Comparison, compare, other_sizes
from segdcn.ops.precision import exact_float32


class Scaled(nn.Module):
    """Logits of two classes: the first channel, and its negative; `noise` is lost in float32."""

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        first = image[:, :1]
        if image.dtype == torch.float64:
            first = first + self.noise
        return torch.cat([first, -first], dim=1)


IMAGE = torch.tensor([0.5, -2.0, 1.0, 0.00005]).view(1, 1, 2, 2).expand(1, 3, 2, 2)


def only(network, exported) -> Comparison:
    (found,) = compare(network, exported, [("numbers", IMAGE)])
    return found


@pytest.mark.parametrize(("added", "agrees"), [(0.0, True), (1.9e-4, True), (2.1e-4, False), (float("nan"), False)])
def test_a_ten_thousandth_of_the_largest_logit_is_allowed(added, agrees):
    found = only(Scaled(), lambda image: Scaled()(image) + added)
    assert found.largest == 2 and found.agrees == agrees


def test_labels_that_change_are_counted():
    """The last pixel is the first class by 0.0001; a second class that is 0.00015 more takes it."""
    found = only(Scaled(), lambda image: Scaled()(image) + torch.tensor([0.0, 1.5e-4]).view(1, 2, 1, 1))
    assert found.changed == 0.25 and found.agrees


def test_a_network_that_rounds_more_is_allowed_ten_times_its_own_error():
    for added, agrees in ((9.0e-3, True), (1.1e-2, False)):
        assert only(Scaled(noise=1e-3), lambda image, added=added: Scaled()(image) + added).agrees == agrees


def test_a_gpu_does_not_round_to_tf32_while_it_is_compared():
    """That is a thousandth, ten times what is allowed; who runs the file decides about it."""
    convolutions, seen = torch.backends.cudnn.conv, []
    before = convolutions.fp32_precision

    def exported(image):
        seen.append(convolutions.fp32_precision)
        return Scaled()(image)

    assert only(Scaled(), exported).agrees
    assert seen and "tf32" not in seen and convolutions.fp32_precision == before


@pytest.mark.parametrize("before", ["tf32", "ieee"])
def test_what_a_user_had_set_for_tf32_is_there_afterwards(before):
    try:
        torch.backends.cudnn.conv.fp32_precision = before
        with exact_float32():
            assert torch.backends.cudnn.conv.fp32_precision != "tf32"
            assert not torch.backends.cudnn.allow_tf32  # which torch.export reads
        assert torch.backends.cudnn.conv.fp32_precision == before
    finally:
        torch.backends.cudnn.allow_tf32 = True


def test_another_size_is_never_the_same():
    found = only(Scaled(), lambda image: Scaled()(image)[:, :, :1])
    assert not found.agrees and found.changed == 1


def test_the_other_sizes_are_none_that_anything_is_exported_with():
    shapes = [tuple(image.shape) for _, image in other_sizes(8)]
    assert shapes == [(3, 3, 40, 64), (1, 3, 72, 32)]
