"""Every format on a tiny network: the same logits at sizes that were not there at export."""

import copy
import json
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from segdcn.errors import MissingLibraryError, UserValueError
from segdcn.export import load, onnx
from segdcn.export.formats import FORMATS
from segdcn.export.half import HalfWeights, rounded
from segdcn.export.verify import TOLERANCE
from segdcn.layers import DeformableConv3d
from segdcn.ops import deform_psroi_pool
from segdcn.verbs.export import FormatName

# Exported at 2 x 16 x 24. The last has maps of a single pixel, which programs are not for.
SIZES = [(1, 20, 36), (3, 44, 8), (2, 16, 24)]
GRAPHS = ["onnx", "onnx-portable", "program", "program-portable"]


@pytest.fixture(scope="module")
def files(tiny, describe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    for name in GRAPHS:
        FORMATS[name].write(tiny, describe(tiny), folder / f"{name}{FORMATS[name].suffix}")
    return folder


def path_of(files, name):
    return files / f"{name}{FORMATS[name].suffix}"


def assert_same(network, run, sizes=SIZES):
    for batch, height, width in sizes:
        image = torch.randn(batch, 3, height, width)
        with torch.no_grad():
            expected = network(image)
        assert (run(image) - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", GRAPHS)
def test_any_batch_and_size_gives_the_same(tiny, files, name):
    opened = load(path_of(files, name), trust=True)
    sizes = SIZES if opened.description.size_minimum > 4 else [*SIZES, (2, 4, 4)]
    assert_same(tiny, opened.run, sizes)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_file_says_what_one_has_to_know(tiny, describe, files, name):
    found = load(path_of(files, name), trust=True).description
    minimum = 8 if name.startswith("program") else 1
    assert found == describe(tiny, size_minimum=minimum)


def test_onnx_metadata_can_be_read_without_segdcn(files):
    import onnxruntime

    session = onnxruntime.InferenceSession(path_of(files, "onnx"))
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"])[1] == "straße"
    assert json.loads(metadata["std"]) == [0.2, 0.2, 0.25]
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.shape) == ("image", ["batch", 3, "height", "width"])
    assert (logits.name, logits.shape) == ("logits", ["batch", 3, "height", "width"])


def test_onnx_has_standard_operators_alone(files):
    import onnx as package

    kinds = {}
    for name in ("onnx", "onnx-portable"):
        model = package.load(path_of(files, name))
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 19)]
        kinds[name] = [node.op_type for node in model.graph.node]
    assert kinds["onnx"].count("DeformConv") == 1 and "GridSample" not in kinds["onnx"]
    assert kinds["onnx-portable"].count("GridSample") == 1 and "DeformConv" not in kinds["onnx-portable"]


def test_onnx_tells_nothing_about_the_machine_it_came_from(files):
    content = path_of(files, "onnx").read_bytes()
    assert b"site-packages" not in content and b".py" not in content


def test_the_portable_onnx_runs_in_openvino(tiny, files):
    import openvino

    compiled = openvino.Core().compile_model(
        path_of(files, "onnx-portable"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    assert_same(tiny, lambda image: torch.from_numpy(compiled(image.numpy())[0]))


@pytest.mark.slow
def test_the_portable_program_runs_where_segdcn_is_not_installed(tiny, files, tmp_path):
    image = torch.randn(2, 3, 20, 12)
    torch.save(image, tmp_path / "image.pt")
    code = f"""
import sys
sys.modules["segdcn"] = None  # an import of it fails
import torch
program = torch.export.load({str(path_of(files, "program-portable"))!r}).module()
torch.save(program(torch.load({str(tmp_path / "image.pt")!r})).detach(), {str(tmp_path / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=tmp_path)
    assert_same(lambda _: torch.load(tmp_path / "logits.pt"), lambda _: tiny(image), [(2, 20, 12)])


@pytest.mark.parametrize(
    ("name", "dtype"), [("program", "float16"), pytest.param("onnx", "bfloat16", marks=pytest.mark.slow)]
)
def test_half_weights_compute_what_the_rounded_network_computes(tiny, describe, tmp_path, name, dtype):
    """And so in every runtime the same, though not what the network computed."""
    reference = rounded(tiny, getattr(torch, dtype))
    path = tmp_path / f"half{FORMATS[name].suffix}"
    FORMATS[name].write(HalfWeights(reference, getattr(torch, dtype)), describe(tiny, weights_dtype=dtype), path)
    opened = load(path, trust=True)
    assert_same(reference, opened.run)
    image = torch.randn(1, 3, 20, 36)
    assert (reference(image) - tiny(image)).abs().max() > 0
    assert opened.description.weights_dtype == dtype


def test_weights_too_large_for_half_precision_are_refused(tiny):
    network = copy.deepcopy(tiny)
    network.head.weight.data[0] = 70_000
    message = (
        "1 weights hold numbers above 65504, the largest in float16, the first is head.weight; try --half bfloat16"
    )
    with pytest.raises(UserValueError, match=message):
        rounded(network, torch.float16)
    assert rounded(network, torch.bfloat16).head.weight[0, 0] == 70_144  # the nearest there is


@pytest.fixture
def volume(network_with):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = DeformableConv3d(8, 8, 3, padding=1)

        def forward(self, features):
            return self.layer(features[:, :, None]).squeeze(2)

    return network_with(Flat())


def test_onnx_has_no_deformable_convolution_of_three_dimensions(volume, describe, tmp_path):
    with pytest.raises(UserValueError, match="onnx has no segdcn::deform_conv3d; try onnx-portable"):
        FORMATS["onnx"].write(volume, describe(volume), tmp_path / "a.onnx")


@pytest.mark.slow
def test_the_portable_form_has_three_dimensions(volume, describe, tmp_path):
    network = volume
    FORMATS["onnx-portable"].write(network, describe(network), tmp_path / "b.onnx")
    assert_same(network, load(tmp_path / "b.onnx").run)


@pytest.mark.parametrize("name", ["onnx", "program-portable"])
def test_region_pooling_is_refused_where_it_cannot_be_written(network_with, describe, tmp_path, name):
    class Pooled(nn.Module):
        def forward(self, features):
            regions = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
            pooled = deform_psroi_pool(features, regions, output_dim=8, group_size=1)
            return features * pooled.mean()

    network = network_with(Pooled())
    with pytest.raises(UserValueError, match="has no segdcn::deform_psroi_pool"):
        FORMATS[name].write(network, describe(network), tmp_path / f"a{FORMATS[name].suffix}")


def test_a_missing_package_is_named_with_what_installs_it(tiny, describe, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingLibraryError, match=r"need onnx, onnxscript, onnxruntime: pip install onnx onnxscript onnxruntime"
    ):
        FORMATS["onnx"].write(tiny, describe(tiny), tmp_path / "a.onnx")


def test_a_network_too_large_for_onnx_is_refused_before_anything_is_written(tiny, describe, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "LARGEST_WEIGHTS", 1000)
    with pytest.raises(UserValueError, match="bytes, but an ONNX file holds 2,147,483,648 at most; try --half float16"):
        FORMATS["onnx"].write(tiny, describe(tiny), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_the_formats_of_the_command_line_are_those_there_are():
    assert get_args(FormatName) == tuple(FORMATS)


def test_a_missing_compiler_is_said_before_anything_is_compiled(tiny, describe, tmp_path):
    from torch._inductor import config

    # Not by monkeypatch, which would undo it by removing the setting.
    with (
        config.patch({"cpp.cxx": ("no-such-compiler",)}),
        pytest.raises(MissingLibraryError, match="aoti needs a C.. compiler: install g.., or name one in CXX"),
    ):
        FORMATS["aoti"].write(tiny, describe(tiny), tmp_path / "a.pt2")


def test_pictures_too_small_for_a_program_are_refused_and_not_padded(tiny, files):
    with pytest.raises(
        UserValueError,
        match="the image is padded to 4x12 .* takes 8 pixels or more on each side, that is pictures of more than 4;",
    ):
        load(path_of(files, "program"), trust=True).predict(np.zeros((3, 9, 3), np.uint8))
    assert load(path_of(files, "onnx")).predict(np.zeros((3, 9, 3), np.uint8)).shape == (3, 9)
