"""Every YAML under configs/, found by globbing: it parses, builds, and takes one small step."""

import json
from pathlib import Path

import pytest
import yaml

from segdcn import cli
from segdcn.sweep.command import expand
from segdcn.sweep.file import read_sweep
from segdcn.sweep.parameters import Choice
from segdcn.task import SegmentationTask

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
MODELS = sorted((CONFIGS / "model").glob("*.yaml"))
DATA = sorted((CONFIGS / "data").glob("*.yaml"))
SWEEPS = sorted((CONFIGS / "sweep").glob("*.yaml"))
RECIPES = sorted((CONFIGS / "recipe").glob("*.yaml"))
SMALL = ["--data.batch_size=2", "--data.num_workers=0", "--data.crop_size=64", "--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder with a data set of a few small pictures."""
    folder = tmp_path_factory.mktemp("shapes") / "set"
    assert cli.main(["data", "make-shapes", "--output", str(folder), "--train=4", "--val=2", "--size=64"]) == 0
    return folder


def one_step(data, model, *flags):
    """Run one training and one validation step of `fit`, with random weights."""
    files = ["--config", str(CONFIGS / "base.yaml"), "--data", str(data), "--model", str(model)]
    return cli.main(["fit", *files, "--model.encoder_weights=null", "--trainer.fast_dev_run=1", *SMALL, *flags])


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_a_model_takes_a_step(model, shapes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "shapes.yaml"
    data.write_text(f"class_path: segdcn.data.Shapes\ninit_args: {{root: {shapes}}}\n")
    assert one_step(data, model) == 0
    assert list(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("data", DATA, ids=lambda path: path.stem)
def test_a_data_set_takes_a_step(data, shapes, test_data, tmp_path, monkeypatch):
    """With the smallest model, on the samples at hand."""
    monkeypatch.chdir(tmp_path)
    roots = {"shapes": shapes, "voc": test_data / "VOCdevkit" / "VOC2012"}
    root = roots.get(data.stem, test_data / data.stem)
    assert one_step(data, CONFIGS / "model" / "deeplabv3plus_r18_dcn.yaml", f"--data.root={root}") == 0


@pytest.mark.parametrize("sweep", SWEEPS, ids=lambda path: path.stem)
def test_a_trial_of_a_sweep_takes_a_step(sweep, shapes, tmp_path, monkeypatch):
    """With the last value of every parameter, and the command as it stands in the file."""
    monkeypatch.chdir(CONFIGS.parent)
    read = read_sweep(sweep)
    values = {parameter.name: last_value(parameter.space) for parameter in read.parameters}
    (tmp_path / "args.json").write_text(json.dumps(read.arguments(values)))
    command = expand(read.command, read.program, read.arguments(values), tmp_path / "args.json")
    flags = ["--data.root", str(shapes), "--trainer.fast_dev_run=1", *SMALL]
    assert cli.main([*command[command.index("fit") :], *flags]) == 0


def last_value(space):
    return space.values[-1] if isinstance(space, Choice) else space.high


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_takes_a_step_and_changes_what_data_and_model_say(recipe, shapes, tmp_path, monkeypatch):
    """With the smallest model, which says other rates and has no auxiliary head."""
    monkeypatch.chdir(tmp_path)
    seen = []

    def note(self, batch, batch_idx, step=SegmentationTask.training_step):
        seen.append((self.hparams, self.network.auxiliary_head))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "training_step", note)
    data = tmp_path / "shapes.yaml"
    data.write_text(f"class_path: segdcn.data.Shapes\ninit_args: {{root: {shapes}}}\n")
    model = CONFIGS / "model" / "deeplabv3plus_r18_dcn.yaml"
    assert one_step(data, model, "--config", str(recipe), *SMALL, "--data.train_split=train") == 0
    ((hparams, auxiliary_head),) = seen
    asked, before = (yaml.safe_load(path.read_text()) for path in (recipe, model))
    # 1e-4 is a text to YAML 1.1; 1.0e-4 would not be.
    asked = {key: float(value) if key in ("weight_decay", "min_lr") else value for key, value in asked["model"].items()}
    assert {key: hparams[key] for key in asked} == asked
    assert any(before[key] != value for key, value in asked.items())
    assert (auxiliary_head is not None) == (asked.get("aux_weight", 0) > 0)


@pytest.mark.parametrize(
    "config", [CONFIGS / "base.yaml", *MODELS, *DATA, *RECIPES, *SWEEPS], ids=lambda path: path.stem
)
def test_a_config_opens_with_a_note_whose_files_exist(config):
    """What it is, what to expect, and the command that runs it."""
    head = [line for line in config.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert "# Expect: " in text
    assert "segdcn fit" in text
    named = {word for word in text.replace("\\", " ").split() if word.startswith("configs/")}
    assert named and all((CONFIGS.parent / name).is_file() for name in named)
