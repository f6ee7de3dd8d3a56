"""Files of weights: whatever they are packed in, and nothing but weights."""

import argparse
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.models.weights.file import in_float32, read_weights

STATE = {"conv.weight": torch.arange(4.0).reshape(2, 2), "bn.running_mean": torch.ones(2)}


def saved(folder, content, name="weights.pth"):
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize("key", [None, "state_dict", "model", "anything"])
def test_weights_are_found_wherever_they_lie(tmp_path, key):
    path = saved(tmp_path, STATE if key is None else {"epoch": 3, "optimizer": {"state": {}}, key: STATE})
    file = read_weights(path)
    assert file.key == key and file.others == ()
    assert torch.equal(file.tensors["conv.weight"], STATE["conv.weight"])


def test_safetensors_hold_the_same(tmp_path):
    safetensors.torch.save_file(STATE, tmp_path / "weights.safetensors")
    file = read_weights(tmp_path / "weights.safetensors")
    assert torch.equal(file.tensors["conv.weight"], STATE["conv.weight"])


def test_the_configuration_of_mmsegmentation_is_kept(tmp_path):
    assert read_weights(saved(tmp_path, {"meta": {"config": "a = 1"}, "state_dict": STATE})).settings == "a = 1"
    assert read_weights(saved(tmp_path, {"meta": {"epoch": 1}, "state_dict": STATE})).settings == ""


def test_of_several_groups_the_usual_one_is_taken_and_a_key_takes_another(tmp_path):
    averaged = {name: value + 1 for name, value in STATE.items()}
    path = saved(tmp_path, {"ema_state_dict": averaged, "state_dict": STATE})
    assert read_weights(path).key == "state_dict" and read_weights(path).others == ("ema_state_dict",)
    assert torch.equal(read_weights(path, "ema_state_dict").tensors["conv.weight"], STATE["conv.weight"] + 1)
    with pytest.raises(UserValueError, match="key is 'ema', but .* holds weights under ema_state_dict, state_dict"):
        read_weights(path, "ema")
    with pytest.raises(UserValueError, match="under no key: they are all of it"):
        read_weights(saved(tmp_path, STATE), "ema")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_become_float32_exactly(dtype):
    value = torch.tensor([0.1, 1e-7, 3.0]).to(dtype)
    found = in_float32({"weight": value}, Path())["weight"]
    assert found.dtype == torch.float32 and torch.equal(found.to(dtype), value)


def test_counts_of_batches_are_kept_and_added_where_they_are_missing():
    assert in_float32(STATE, Path())["bn.num_batches_tracked"] == 0
    for counted in (
        {**STATE, "bn.num_batches_tracked": torch.tensor(5)},
        {"bn.num_batches_tracked": torch.tensor(5), **STATE},
    ):
        assert in_float32(counted, Path())["bn.num_batches_tracked"] == 5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2, dtype=torch.float64), "a.pth: weight is float64; expected numbers that float32 holds exactly"),
        (torch.zeros(2, dtype=torch.int8), "weight is int8"),
        (torch.tensor([1.0, torch.nan]), "weight holds numbers that are infinite or NaN"),
        (torch.tensor([1.0, -torch.inf]).half(), "weight holds numbers that are infinite or NaN"),
    ],
)
def test_numbers_that_cannot_be_taken_over_are_refused(value, message):
    with pytest.raises(InvalidDataError, match=message):
        in_float32({"weight": value}, Path("a.pth"))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_run(tmp_path):
    path = saved(tmp_path, {"state_dict": STATE, "args": Bomb(tmp_path / "ran")})
    with pytest.raises(InvalidDataError, match=r"holds more than weights \(\w+\), and reading that could run code"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()  # the bomb is one


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": STATE, "args": argparse.Namespace(lr=1)}, r"more than weights \(argparse.Namespace\)"),
        (nn.Conv2d(1, 1, 1), r"more than weights \(torch.nn.modules.conv.Conv2d\).*torch.save\(network.state_dict"),
        ({"epoch": 3, "best": 0.5}, "holds no weights but a dict of epoch, best"),
        ({}, "holds no weights but an empty dict"),
        ([1, 2], "holds no weights but a list"),
    ],
)
def test_what_are_no_weights_is_refused_with_the_reason(tmp_path, content, message):
    with pytest.raises(InvalidDataError, match=message) as caught:
        read_weights(saved(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_program_is_no_file_of_weights(tmp_path):
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "weights.pt")
    with pytest.raises(InvalidDataError, match="is a TorchScript archive, which is a program"):
        read_weights(tmp_path / "weights.pt")


def test_damaged_and_missing_files_are_refused(tmp_path):
    path = saved(tmp_path, STATE)
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "a.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"not json")
    for name, message in [("weights.pth", "it is damaged"), ("a.safetensors", "cannot be read as safetensors")]:
        with pytest.raises(InvalidDataError, match=message):
            read_weights(tmp_path / name)
    with pytest.raises(MissingFileError, match="none.pth does not exist"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(MissingFileError, match="is a folder; expected a file of weights"):
        read_weights(tmp_path)
