import pytest
import torch
from torch import nn

from segdcn.layers import DeformableConv2d
from segdcn.optim import build_optimizer, parameter_groups, rate_factor, set_rates


class Network(nn.Module):
    """The names that matter: an encoder with a deformable layer, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), DeformableConv2d(4, 4, 3, padding=1))
        self.segmentation_head = nn.Conv2d(4, 2, 1)


def groups_of(network, **changed):
    settings = {"lr": 0.1, "weight_decay": 0.01, "encoder_lr_scale": 0.5, "offset_lr_scale": 0.2} | changed
    return {group["name"]: group for group in parameter_groups(network, **settings)}


def test_every_parameter_is_in_the_group_of_its_place():
    network = Network()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = {group: sorted(names[id(p)] for p in value["params"]) for group, value in groups_of(network).items()}
    assert groups == {
        "encoder": ["encoder.0.weight", "encoder.2.weight"],
        "encoder.no_decay": ["encoder.0.bias", "encoder.1.bias", "encoder.1.weight", "encoder.2.bias"],
        "head": ["segmentation_head.weight"],
        "head.no_decay": ["segmentation_head.bias"],
        "offset": ["encoder.2.offset_conv.weight"],
        "offset.no_decay": ["encoder.2.offset_conv.bias"],
    }


def test_groups_do_not_depend_on_shapes_and_wrappers():
    """FSDP leaves flat pieces of parameters, in modules that are called otherwise."""

    def listed(network):
        names = {id(p): name.replace("_fsdp_wrapped_module.", "") for name, p in network.named_parameters()}
        return {group: [names[id(p)] for p in value["params"]] for group, value in groups_of(network).items()}

    network, wrapped = Network(), Network()
    for parameter in wrapped.parameters():
        parameter.data = parameter.data.flatten()
    encoder = nn.Module()
    encoder._fsdp_wrapped_module = wrapped.encoder
    wrapped.encoder = encoder
    assert listed(wrapped) == listed(network)


def test_rates_and_decay_by_group():
    groups = groups_of(Network())
    assert {name: group["lr"] for name, group in groups.items()} == pytest.approx(
        {
            "encoder": 0.05,
            "encoder.no_decay": 0.05,
            "head": 0.1,
            "head.no_decay": 0.1,
            "offset": 0.02,
            "offset.no_decay": 0.02,
        }
    )
    decays = {name for name, group in groups.items() if group["weight_decay"] == 0.01}
    assert decays == {"encoder", "head", "offset"}
    assert all(group["weight_decay"] == 0.0 for name, group in groups.items() if name not in decays)


def test_frozen_parameters_and_empty_groups_are_left_out():
    network = Network()
    network.encoder[2] = nn.Conv2d(4, 4, 3)
    network.segmentation_head.requires_grad_(False)
    assert set(groups_of(network)) == {"encoder", "encoder.no_decay"}


def test_the_schedule_by_hand():
    """Warm-up of 4 steps, 14 in all: 1/4, 2/4, 3/4, 1, then (1 - k/10)**power."""
    factors = [rate_factor(step, total_steps=14, warmup_steps=4, power=2.0) for step in range(15)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[9] == pytest.approx(0.25)  # halfway: 0.5**2
    assert factors[13] == pytest.approx(0.01)  # (1 - 9/10)**2
    assert factors[14] == 0.0


def test_the_schedule_ends_at_its_floor():
    """Of 10 steps at power 1 and a floor of 0.2: 1, then 0.2 + 0.8/2 halfway, then 0.2; warm-up knows no floor."""
    factors = [rate_factor(step, total_steps=10, warmup_steps=0, power=1.0, floor=0.2) for step in (0, 5, 10, 11)]
    assert factors == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert rate_factor(0, total_steps=10, warmup_steps=10, power=1.0, floor=0.2) == pytest.approx(0.1)


def test_power_zero_keeps_the_rate_and_a_step_too_many_is_no_error():
    assert rate_factor(5, total_steps=10, warmup_steps=0, power=0.0) == 1.0
    assert rate_factor(12, total_steps=10, warmup_steps=0, power=0.9) == 0.0


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_rate_of_zero_leaves_offsets_as_they_are(name):
    network = Network()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 0.3)
    groups = list(groups_of(network).values())
    optimizer = build_optimizer(name, groups, momentum=0.9)
    for _ in range(3):
        rates = set_rates(optimizer, factor=0.5, offsets_learn=False)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert rates == pytest.approx({"encoder": 0.025, "head": 0.05, "offset": 0.0})
    offset_conv = network.encoder[2].offset_conv
    assert torch.equal(offset_conv.weight, torch.full_like(offset_conv.weight, 0.3))
    assert not torch.equal(network.encoder[2].weight, torch.full_like(network.encoder[2].weight, 0.3))

    set_rates(optimizer, factor=0.5, offsets_learn=True)
    optimizer.step()
    assert not torch.equal(offset_conv.weight, torch.full_like(offset_conv.weight, 0.3))
