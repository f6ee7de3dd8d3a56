"""Whole networks, written and run again: `pytest -m slow -s tests/export/test_round_trips.py` shows the table."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from segdcn.data.collage import draw
from segdcn.export import load, read_trained, write
from segdcn.export.formats import FORMATS
from segdcn.export.half import rounded
from segdcn.export.trained import Trained
from segdcn.export.verify import compare, other_sizes, padded
from segdcn.layers import DeformableConv2d
from segdcn.task import SegmentationTask

# format, architecture, encoder, deformable layers, modulated, weights
ROWS = [
    ("onnx", "deeplabv3plus", "resnet50", 3, True, "float32"),
    ("onnx", "deeplab", "resnet18", 3, False, "float32"),
    ("onnx", "deeplabv3", "resnet18", 0, True, "bfloat16"),
    ("onnx-portable", "deeplabv3", "resnet50", 3, True, "float32"),
    ("onnx-portable", "deeplabv3plus", "resnet18", 3, False, "float32"),
    ("program", "deeplabv3plus", "resnet50", 3, False, "float32"),
    ("program", "deeplabv3", "resnet18", 0, True, "float32"),
    ("program-portable", "deeplab", "resnet50", 3, True, "float32"),
    ("program-portable", "deeplabv3plus", "resnet18", 3, True, "float16"),
    ("aoti", "deeplabv3plus", "resnet50", 3, True, "float32"),
    ("aoti", "deeplab", "resnet18", 3, False, "float16"),
    ("safetensors", "deeplabv3", "resnet50", 3, True, "float32"),
    ("safetensors", "deeplab", "resnet18", 3, False, "bfloat16"),
]


def network(architecture, encoder, deform_layers, modulated):
    """Build a network with statistics and offsets as after training: taps move by 2 pixels, by 0.2 from pixel to pixel.

    Offsets that followed random features by much more would amplify rounding, in every runtime.
    """
    torch.manual_seed(0)
    settings = {
        "num_classes": 5,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "architecture": architecture,
        "encoder": encoder,
        "deform_layers": deform_layers,
        "modulated": modulated,
    }
    task = SegmentationTask(**settings)

    def scale_offsets(layer, inputs):
        layer.offset_conv.weight.copy_(torch.randn_like(layer.offset_conv.weight))
        layer.offset_conv.weight *= 0.2 / layer.predict_offsets(inputs[0])[0].std()
        layer.offset_conv.bias.normal_(std=2)

    with torch.no_grad():
        for module in task.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # average
        task.network.train()
        task.network(torch.randn(4, 3, 128, 128))
        hooks = [
            module.register_forward_pre_hook(scale_offsets)
            for module in task.network.modules()
            if isinstance(module, DeformableConv2d)
        ]
        task.network(torch.randn(4, 3, 128, 128))
        for hook in hooks:
            hook.remove()
    return task


@pytest.fixture(scope="module")
def trained_with(tmp_path_factory):
    def make(*settings):
        task = network(*settings)
        saved = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)}
        task.on_save_checkpoint(saved)
        path = tmp_path_factory.mktemp("trained") / "a.ckpt"
        torch.save(saved, path)
        return read_trained(path)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, row)))
def test_the_file_computes_what_the_network_computes(trained_with, tmp_path, row):
    format, *settings, dtype = row
    trained = trained_with(*settings)
    if dtype != "float32":
        description = replace(trained.description, weights_dtype=dtype)
        trained = Trained(rounded(trained.network, getattr(torch, dtype)), description)
    path = tmp_path / f"a{FORMATS[format].suffix}"
    write(trained, format, path)

    opened = load(path, trust=True)
    picture = padded(opened.normalised(draw(np.random.default_rng(0), 150, 0.5).image), 16)
    inputs = [("picture", picture), *other_sizes(16), ("large", torch.randn(1, 3, 272, 400))]
    runs = {FORMATS[format].runtime: opened.run}
    if format == "onnx-portable":
        runs["OpenVINO"] = in_openvino(path)
    for name, run in runs.items():
        compared = compare(trained.network, run, inputs)
        worst = max(one.difference / one.largest for one in compared)
        own = max(one.rounding / one.largest for one in compared)  # 0 where it was not needed
        changed = max(one.changed for one in compared)
        print(f"\n| {' | '.join(map(str, row))} | {name} | {worst:.1e} | {own:.1e} | {changed:.3%} |")
        assert all(one.agrees for one in compared)


def in_openvino(path):
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda image: torch.from_numpy(compiled(image.numpy())[0])
