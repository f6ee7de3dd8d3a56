"""What a comparison asks of its runs: the cost of training, predictions and offsets."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from segdcn import cli
from segdcn.callbacks.step_cost import StepCost

COST = "--trainer.callbacks+=segdcn.callbacks.step_cost.StepCost"
EVIDENCE = "--trainer.callbacks+=segdcn.callbacks.evidence.Evidence"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("cost")
    made = ["data", "make-shapes", "--output", str(folder / "set"), "--train=6", "--val=3", "--size=32"]
    assert cli.main(made) == 0
    (folder / "shapes.yaml").write_text(
        f"class_path: segdcn.data.Shapes\n"
        f"init_args: {{root: {folder / 'set'}, batch_size: 2, num_workers: 0, crop_size: 32}}\n"
    )
    (folder / "model.yaml").write_text("architecture: deeplab\nencoder: resnet18\ndeform_layers: 2\nlr: 0.05\n")
    shutil.copy(request.config.rootpath / "configs/base.yaml", folder / "base.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert segdcn("fit", COST, "--trainer.max_epochs=1") == 0
        (run,) = (folder / "runs" / "tried").iterdir()
        shutil.copy(run / "checkpoints" / "last.ckpt", folder / "first.ckpt")
        assert segdcn("fit", COST, "--trainer.max_epochs=2", "--ckpt_path=last") == 0
        last = run / "checkpoints" / "last.ckpt"
        evidence = [EVIDENCE, "--trainer.callbacks.predictions=2"]
        assert segdcn("validate", *evidence, f"--ckpt_path={last}", "--name=measured", "--runs_dir=measured") == 0
    return folder


def segdcn(verb, *rest):
    files = ["--config=base.yaml", "--data=shapes.yaml", "--model=model.yaml", "--wandb=off", "--pictures.count=0"]
    return cli.main([verb, *files, "--name=tried", "--trainer.accelerator=cpu", *rest])


def cost(path):
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint["callbacks"][StepCost().state_key]


def test_a_checkpoint_knows_what_the_steps_took_also_those_before_a_stop(workplace):
    """Three steps an epoch."""
    (run,) = (workplace / "runs" / "tried").iterdir()
    first, last = cost(workplace / "first.ckpt"), cost(run / "checkpoints" / "last.ckpt")
    assert len(first["seconds"]) == 3 and len(last["seconds"]) == 6
    assert last["seconds"][:3] == first["seconds"]
    assert first["seconds_per_step"] == sorted(first["seconds"])[1] > 0
    # The weights alone, with gradients and momentum, are three times 45 MB.
    assert last["memory"] >= first["memory"] > 3 * 45e6


def test_predictions_are_kept_of_images_spread_over_the_set(workplace):
    """Two of three images: the first and the last."""
    (run,) = (workplace / "measured" / "measured").iterdir()
    evidence = json.loads((run / "evidence.json").read_text())
    assert evidence["predictions"] == {"0": "val_00000", "2": "val_00002"}
    assert sorted(path.name for path in (run / "predictions").iterdir()) == ["000000.png", "000002.png"]
    ids = np.array(Image.open(run / "predictions" / "000002.png"))
    assert ids.shape == (32, 32) and ids.max() < 7


def test_the_offsets_of_every_deformable_layer_are_measured(workplace):
    (run,) = (workplace / "measured" / "measured").iterdir()
    evidence = json.loads((run / "evidence.json").read_text())
    assert list(evidence["offsets"]) == ["encoder.layer4.1.conv1", "encoder.layer4.1.conv2"]
    assert all(layer["finite"] and layer["mean"] > 0 for layer in evidence["offsets"].values())
    assert 11e6 < evidence["parameters"] < 12e6  # a ResNet-18 has 11.2 million
