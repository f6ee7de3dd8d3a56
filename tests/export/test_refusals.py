"""What is not as it was written is refused in one line, and nothing in it is run."""

import json
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import onnx
import pytest
import safetensors.torch
import torch

import segdcn
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.export.formats import FORMATS, read_trained, write
from segdcn.run import HASH


def saved_with(checkpoint, folder, **changes):
    """A copy of the checkpoint with other entries; None takes one away."""
    content = {**torch.load(checkpoint, weights_only=True), **changes}
    torch.save({key: value for key, value in content.items() if value is not None}, folder / "changed.ckpt")
    return folder / "changed.ckpt"


def weights_of(checkpoint):
    return torch.load(checkpoint, weights_only=True)["state_dict"]


# Checkpoints


def test_one_changed_weight_is_noticed(checkpoint, tmp_path):
    weights = weights_of(checkpoint)
    weights["network.encoder.layer4.1.conv2.weight"][7, 5, 1, 1] += 1e-3
    with pytest.raises(InvalidDataError, match="the weights in .* are not those that were saved"):
        segdcn.load(saved_with(checkpoint, tmp_path, state_dict=weights))


def test_missing_weights_are_named(checkpoint, tmp_path):
    weights = weights_of(checkpoint)
    for end in ("weight", "bias"):
        del weights[f"network.encoder.layer4.1.conv2.offset_conv.{end}"]
    changed = {"state_dict": weights, HASH: None}
    message = r"2 differ, the first is encoder.layer4.1.conv2.offset_conv.bias \(missing in the file, \(27,\)"
    with pytest.raises(InvalidDataError, match=message):
        segdcn.load(saved_with(checkpoint, tmp_path, **changed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "vgg"}, "its settings make no network: encoder 'vgg' is not one of"),
        ({"colour": 1}, "its settings make no network: .* unexpected keyword argument 'colour'"),
        ({"mean": None}, "does not say with which mean and std"),
        ({"std": [1.0, 0.0, 1.0]}, r"std is \[1.0, 0.0, 1.0\], which cannot be"),
    ],
)
def test_settings_that_cannot_be_are_refused(checkpoint, tmp_path, change, message):
    settings = torch.load(checkpoint, weights_only=True)["hyper_parameters"] | change
    with pytest.raises(InvalidDataError, match=message):
        segdcn.load(saved_with(checkpoint, tmp_path, hyper_parameters=settings))


@pytest.mark.parametrize(
    "content",
    [
        {"weight": torch.zeros(1)},
        {"state_dict": {"a": 1}, "hyper_parameters": {}},
        {"state_dict": {"network.a": torch.zeros(1)}, "hyper_parameters": {5: 1}},
    ],
)
def test_other_things_that_torch_saved_are_no_checkpoints(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(InvalidDataError, match="is not a checkpoint of segdcn"):
        segdcn.load(tmp_path / "a.ckpt")


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize(
    "weights",
    [
        lambda: {7: torch.zeros(1)},
        lambda: {"network.a": torch.eye(3).to_sparse()},
        lambda: {"network.a": torch.zeros(3, device="meta")},
        lambda: {"network.a": torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8)},
    ],
    ids=["a name that is a number", "sparse", "without storage", "quantised"],
)
def test_weights_that_are_no_rows_of_numbers_are_refused(checkpoint, tmp_path, weights):
    with pytest.raises(InvalidDataError, match="holds other things than weights and settings"):
        segdcn.load(saved_with(checkpoint, tmp_path, state_dict=weights()))


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(checkpoint, tmp_path):
    loaded = torch.load(checkpoint, weights_only=True)
    torch.save(loaded | {"callbacks": Bomb(tmp_path / "ran")}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(loaded["hyper_parameters"] | {"x": Bomb(tmp_path / "ran")}))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(InvalidDataError, match="cannot be read as a checkpoint"):
            segdcn.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()  # the bomb is one


def test_a_checkpoint_without_a_hash_loads_and_says_so(checkpoint, tmp_path, caplog):
    caplog.set_level("INFO", "segdcn")
    trained = read_trained(saved_with(checkpoint, tmp_path, **{HASH: None}))
    assert "holds no hash of its weights" in caplog.text
    assert trained.description.weights_sha256 == torch.load(checkpoint, weights_only=True)[HASH]


# Safetensors


@pytest.fixture
def folder(checkpoint, tmp_path):
    write(read_trained(checkpoint), "safetensors", tmp_path / "weights")
    return tmp_path / "weights"


def test_a_folder_of_safetensors_gives_the_same_network(checkpoint, folder):
    expected, found = segdcn.load(checkpoint), segdcn.load(folder)
    assert found.description == expected.description
    image = torch.randn(1, 3, 32, 48)
    assert torch.equal(found.run(image), expected.run(image))


def test_changed_safetensors_are_refused(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidDataError, match="the weights in .* are not those that were written"):
        segdcn.load(folder)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidDataError, match="holds a damaged file"):
        segdcn.load(folder)


def test_safetensors_with_missing_keys_are_refused_even_with_a_fitting_hash(folder):
    path = folder / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["segmentation_head.0.bias"]
    content = segdcn.fingerprint.fingerprint(weights)  # before the file goes, whose memory they may share
    safetensors.torch.save_file(weights, path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"content_sha256": content}))
    with pytest.raises(InvalidDataError, match="the first is segmentation_head.0.bias"):
        segdcn.load(folder)


@pytest.mark.parametrize("content", ["{", "[" * 100_000, "[]", "{}", '{"class_names": 7}'])
def test_a_damaged_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(InvalidDataError, match="damaged|no settings|does not say"):
        segdcn.load(folder)


def test_half_of_a_folder_is_refused(folder):
    (folder / "config.json").unlink()
    with pytest.raises(MissingFileError, match="holds no config.json"):
        segdcn.load(folder)


# ONNX


def plain(name):
    """An ONNX file of one addition, whose weight may lie elsewhere."""
    values = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1).numpy()
    weight = onnx.numpy_helper.from_array(values, "weight")
    if name is not None:
        onnx.external_data_helper.set_external_data(weight, location=name)
        weight.ClearField("raw_data")
    shape = ["batch", 3, "height", "width"]
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)
    logits = onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, shape)
    node = onnx.helper.make_node("Add", ["image", "weight"], ["logits"])
    graph = onnx.helper.make_graph([node], "graph", [image], [logits], [weight])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=10)


def write_plain(path, tiny, describe, name=None, **texts):
    model = plain(name)
    content = segdcn.fingerprint.fingerprint({"weight": torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)})
    onnx.helper.set_model_props(model, {**describe(tiny).texts(), "content_sha256": content, **texts})
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_beside_an_onnx_file_are_read(tiny, describe, tmp_path):
    (tmp_path / "weights.bin").write_bytes(torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes())
    for name in (None, "weights.bin"):
        found = segdcn.load(write_plain(tmp_path / "a.onnx", tiny, describe, name)).run(torch.zeros(1, 3, 2, 2))
        assert found[0, :, 0, 0].tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("place", ["../weights.bin", "/etc/hostname", "inside/../../weights.bin", "link.bin"])
def test_an_onnx_file_that_reads_out_of_its_folder_is_refused(tiny, describe, tmp_path, place):
    (tmp_path / "weights.bin").write_bytes(torch.tensor([1.0, 2.0, 3.0]).numpy().tobytes())
    (tmp_path / "model" / "inside").mkdir(parents=True)
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "weights.bin")
    path = write_plain(tmp_path / "model" / "a.onnx", tiny, describe, place)
    with pytest.raises(InvalidDataError, match="outside its own folder; it is not to be trusted"):
        segdcn.load(path)


def test_the_same_in_a_node_is_refused(tiny, describe, tmp_path):
    path = write_plain(tmp_path / "a.onnx", tiny, describe)
    model, elsewhere = onnx.load(path), plain("../weights.bin").graph.initializer[0]
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["unused"], value=elsewhere))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidDataError, match="outside its own folder"):
        segdcn.load(path)


def test_weights_that_cannot_be_read_are_refused_in_one_line(tiny, describe, tmp_path):
    """The package onnx reads no links, and trips over kinds of numbers that it does not know."""
    (tmp_path / "weights.bin").write_bytes(bytes(12))
    (tmp_path / "link.bin").symlink_to("weights.bin")
    (tmp_path / "loop.bin").symlink_to("loop.bin")
    for place, message in {
        "link.bin": "holds damaged weights: .* is a symbolic link",
        "loop.bin": "which cannot be read|which is not there",
        "nothing.bin": "keeps weights in 'nothing.bin', which is not there",
        "a\0b": "which cannot be read",
    }.items():
        with pytest.raises(InvalidDataError, match=message):
            segdcn.load(write_plain(tmp_path / "a.onnx", tiny, describe, place))
    for change in ({"data_type": 99}, {"raw_data": b"123"}, {"dims": [7]}):
        path = write_plain(tmp_path / "a.onnx", tiny, describe)
        model = onnx.load(path)
        (weight,) = model.graph.initializer
        weight.MergeFrom(onnx.TensorProto(**change))
        path.write_bytes(model.SerializeToString())
        with pytest.raises(InvalidDataError, match="holds damaged weights: [^\n]+$"):
            segdcn.load(path)


def test_an_onnx_file_that_does_not_do_what_it_says_is_refused(tiny, describe, tmp_path):
    path = write_plain(tmp_path / "a.onnx", tiny, describe)
    segdcn.load(path)  # as it is, it may be opened
    whole = onnx.load(path)
    for name in ("image", "logits"):
        changed = onnx.ModelProto()
        changed.CopyFrom(whole)
        for part in (*changed.graph.input, *changed.graph.output):
            part.name = "other" if part.name == name else part.name
        for names in (changed.graph.node[0].input, changed.graph.node[0].output):
            names[0] = "other" if names[0] == name else names[0]
        path.write_bytes(changed.SerializeToString())
        with pytest.raises(
            InvalidDataError, match=r"a.onnx takes .*other \['batch', 3, .* expected image with 3 channels"
        ):
            segdcn.load(path)
    two = {"class_names": '["sky", "road"]', "palette": "null", "config": '{"num_classes": 2}'}
    with pytest.raises(InvalidDataError, match="expected image with 3 channels, and logits with the 2 of the classes"):
        segdcn.load(write_plain(tmp_path / "b.onnx", tiny, describe, **two))


def test_a_changed_or_foreign_onnx_file_is_refused(tiny, describe, tmp_path):
    path = write_plain(tmp_path / "a.onnx", tiny, describe, content_sha256="0" * 64)
    with pytest.raises(InvalidDataError, match="the weights in .* are not those that were written"):
        segdcn.load(path)
    path.write_bytes(plain(None).SerializeToString())
    with pytest.raises(InvalidDataError, match="does not say class_names"):
        segdcn.load(path)
    path.write_bytes(b"something else")
    with pytest.raises(InvalidDataError, match="cannot be read as an ONNX file"):
        segdcn.load(path)


def test_a_damaged_description_is_refused(tiny, describe, tmp_path):
    for text in ("[0.5,", "[" * 100_000):
        with pytest.raises(InvalidDataError, match="its description is damaged"):
            segdcn.load(write_plain(tmp_path / "a.onnx", tiny, describe, mean=text))
    with pytest.raises(InvalidDataError, match=r"mean is \[0.5\], which cannot be"):
        segdcn.load(write_plain(tmp_path / "b.onnx", tiny, describe, mean="[0.5]"))


# Programs


@pytest.fixture(scope="module")
def program(tiny, describe, tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "a.pt2"
    FORMATS["program"].write(tiny, describe(tiny), path)
    return path


def test_a_program_is_not_opened_without_trust(program, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("opened"))
    with pytest.raises(UserValueError, match=r"can hold code, .* segdcn.load\(path, trust=True\)"):
        segdcn.load(program)


def test_a_changed_program_is_refused_before_it_is_opened(program, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("opened"))
    with zipfile.ZipFile(program) as archive, zipfile.ZipFile(tmp_path / "a.pt2", "w") as changed:
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, content[:-1] + b"\0" if name.endswith("weights/weight_0") else content)
    with pytest.raises(InvalidDataError, match="is not as it was written"):
        segdcn.load(tmp_path / "a.pt2", trust=True)


@pytest.mark.parametrize("name", ["{}/data/more.so", "{}/more/extra/segdcn.json", "{}/models/model.json"])
def test_a_program_with_something_added_is_refused_before_it_is_opened(program, tmp_path, monkeypatch, name):
    """Also under a name that is there already, or that resembles the description's."""
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("opened"))
    path = shutil.copy(program, tmp_path / "a.pt2")
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings(action="ignore"):  # of two members of one name
        archive.writestr(name.format(archive.namelist()[0].partition("/")[0]), "more")
    with pytest.raises(InvalidDataError, match="is not as it was written"):
        segdcn.load(path, trust=True)


def test_other_archives_are_refused(checkpoint, tmp_path):
    shutil.copy(checkpoint, tmp_path / "a.pt2")
    (tmp_path / "b.pt2").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "c.pt2", "w"):
        pass
    for name in ("a.pt2", "b.pt2", "c.pt2"):
        with pytest.raises(InvalidDataError, match="damaged, or not a program that segdcn export wrote"):
            segdcn.load(tmp_path / name, trust=True)


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2", "model.safetensors"])
def test_what_cannot_be_a_network_again_is_told_what_can(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InvalidDataError, match="give the checkpoint, or the folder of safetensors"):
        read_trained(tmp_path / name)


def test_one_file_of_a_folder_is_answered_with_the_folder(folder):
    with pytest.raises(InvalidDataError, match="model.safetensors .* give the checkpoint, or the folder of safeten"):
        segdcn.load(folder / "model.safetensors")


def test_the_folder_of_a_run_is_answered_with_its_checkpoints(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(MissingFileError, match="is the folder of a run; give one of the files in .*/checkpoints"):
        segdcn.load(tmp_path)


def test_nothing_there_is_said_so(tmp_path):
    with pytest.raises(MissingFileError, match="there is no .*nothing.ckpt"):
        segdcn.load(tmp_path / "nothing.ckpt")


def test_importing_segdcn_stays_light():
    import subprocess
    import sys

    code = "import segdcn, sys; assert 'torch' not in sys.modules and not hasattr(segdcn, 'lode')"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
