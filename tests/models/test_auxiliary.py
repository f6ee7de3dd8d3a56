import pytest
import torch
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import nn

from segdcn.models import ARCHITECTURES, build_deeplab


def build(**settings):
    torch.manual_seed(0)
    return build_deeplab(**{"encoder": "resnet18", "num_classes": 5, "auxiliary_head": True, **settings})


@pytest.mark.parametrize("output_stride", [8, 16])
def test_training_gives_a_second_opinion_of_the_input_s_size(output_stride):
    network = build(output_stride=output_stride).train()
    logits, auxiliary = network(torch.randn(2, 3, 64, 96))
    assert logits.shape == auxiliary.shape == (2, 5, 64, 96)


def test_the_second_opinion_comes_from_the_third_stage():
    network = build(architecture="deeplab").train()
    network(torch.randn(2, 3, 64, 64))[1].sum().backward()
    assert network.encoder.layer3[1].conv2.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.encoder.layer4.parameters())


def test_evaluation_does_not_run_it():
    network = build().eval()
    network.auxiliary_head.register_forward_hook(lambda *_: pytest.fail("was run"))
    assert network(torch.randn(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_its_parameters_have_a_name_of_their_own_and_change_no_other():
    with_head, without = build().state_dict(), build(auxiliary_head=False).state_dict()
    assert {name for name in with_head if name not in without} == {
        name for name in with_head if name.startswith("auxiliary_head.")
    }
    assert all(torch.equal(with_head[name], value) for name, value in without.items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_synchronised_normalisation_reaches_every_layer(architecture):
    """What `trainer.sync_batchnorm: true` does to the network on several GPUs."""
    network = TorchSyncBatchNorm().apply(build(architecture=architecture))
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) > 20 and {type(module) for module in norms} == {nn.SyncBatchNorm}
