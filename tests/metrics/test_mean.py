import pytest
import torch

from segdcn.metrics import WeightedMean


def test_the_mean_counts_on_in_float64_when_the_network_is_bfloat16():
    """1000 ones and 1000 threes: a bfloat16 sum of ones stops at 256."""
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), WeightedMean())
    mean = network[1]
    mean.update(torch.tensor(2.0), torch.tensor(1))
    network.to(torch.bfloat16)
    assert network[0].weight.dtype == torch.bfloat16
    for value in (1.0, 3.0):
        for _ in range(1000):
            mean.update(torch.tensor(value, dtype=torch.bfloat16), torch.tensor(1))
    assert mean.sums.dtype == torch.float64 and mean.sums.tolist() == [4002.0, 2001.0]
    assert mean.compute() == pytest.approx(2.0)


def test_the_sums_follow_the_network_to_its_device(device):
    mean = WeightedMean().to(device, torch.float16)
    mean.update(torch.tensor(0.5, device=device), torch.tensor(4, device=device))
    assert mean.sums.device.type == device.type and mean.compute().item() == 0.5
    assert not mean.state_dict()
