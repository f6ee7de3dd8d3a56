"""fit, validate and test on a few small pictures: the run folder, resuming, what wins over what."""

import csv
import shutil
from contextlib import redirect_stdout
from io import StringIO

import pytest
import torch
import yaml

from segdcn import cli
from segdcn.task import SegmentationTask

BASE = "configs/base.yaml"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, request):
    """A folder with a data set, its YAML and a model's YAML."""
    folder = tmp_path_factory.mktemp("runs")
    made = ["data", "make-shapes", "--output", str(folder / "set"), "--train=6", "--val=3", "--size=32"]
    assert cli.main(made) == 0
    (folder / "shapes.yaml").write_text(
        f"class_path: segdcn.data.Shapes\n"
        f"init_args: {{root: {folder / 'set'}, batch_size: 2, num_workers: 0, crop_size: 32}}\n"
    )
    (folder / "model.yaml").write_text("architecture: deeplab\nencoder: resnet18\ndeform_layers: 1\nlr: 0.05\n")
    shutil.copy(request.config.rootpath / BASE, folder / "base.yaml")
    return folder


def segdcn(workplace, verb, *rest):
    files = ["--config", "base.yaml", "--data", "shapes.yaml", "--model", "model.yaml"]
    mine = ["--name=tried", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    return cli.main([verb, *files, *mine, *rest])


@pytest.fixture(scope="module")
def finished(workplace):
    """A run of one epoch, with W&B offline since there is no key; its folder and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(workplace / "no-netrc"))
        patch.setattr("builtins.input", lambda *_: pytest.fail("prompted"))
        assert segdcn(workplace, "fit", "--trainer.max_epochs=1", "--pictures.count=2") == 0
    (folder,) = (workplace / "runs" / "tried").iterdir()
    return folder


@pytest.fixture
def copied(workplace, finished, tmp_path, monkeypatch):
    """The finished run in a workplace of its own, for tests that add to it."""
    shutil.copytree(workplace / "runs", tmp_path / "runs", symlinks=True)
    for file in ("base.yaml", "shapes.yaml", "model.yaml"):
        shutil.copy(workplace / file, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "tried" / finished.name


def rows(run):
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


def test_a_run_folder_holds_what_the_design_says(finished):
    present = {str(path.relative_to(finished)) for path in finished.rglob("*") if "wandb" not in str(path)}
    assert {"config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "pictures"} <= present
    assert len(list((finished / "pictures").glob("*.png"))) >= 2
    assert list(finished.glob("wandb/offline-run-*/*.wandb"))


def test_metrics_hold_every_step_and_the_validation(finished):
    found = rows(finished)
    assert [row["step"] for row in found if row["train/loss"]] == ["0", "1", "2"]
    (validation,) = [row for row in found if row["val/mIoU"]]
    assert 0 <= float(validation["val/mIoU"]) <= 1 and validation["val/IoU/background"]
    assert found[0]["lr/offset"] and float(found[0]["lr/head"]) == pytest.approx(0.05)


def test_the_configuration_is_complete_and_can_be_used_again(finished, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    config = yaml.safe_load((finished / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 1 and config["model"]["lr"] == 0.05
    assert config["model"]["momentum"] == 0.9  # a default that no file sets
    assert config["data"]["init_args"]["flip_prob"] == 0.5
    assert cli.main(["fit", "--config", str(finished / "config.yaml"), "--trainer.fast_dev_run=true"]) == 0
    assert len(list((workplace / "runs" / "tried").iterdir())) == 1  # fast_dev_run leaves nothing behind


def test_a_checkpoint_rebuilds_without_yaml(finished):
    task = SegmentationTask.load_from_checkpoint(finished / "checkpoints" / "best.ckpt", weights_only=True)
    assert task.class_names[0] == "background" and len(task.hparams["palette"]) == task.hparams["num_classes"] == 7
    assert task.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7, 32, 32)


def test_validate_best_gives_what_training_saw(copied, capsys):
    # The model's settings come from the checkpoint: no --model, and resnet50 is the default.
    args = ["validate", "--config=base.yaml", "--data=shapes.yaml", "--name=tried", "--wandb=off", "--ckpt_path=best"]
    assert cli.main(args) == 0
    seen = next(row["val/mIoU"] for row in rows(copied) if row["val/mIoU"])
    printed = capsys.readouterr().out
    assert f"mIoU        {float(seen):.4f}" in printed
    assert "background" in printed and "mean of" in printed
    (folder,) = [path for path in copied.parent.iterdir() if path != copied]
    assert folder.name.endswith("-validate") and not (folder / "checkpoints").exists()


def test_last_goes_on_in_the_same_folder(copied, workplace):
    before = rows(copied)
    config = (copied / "config.yaml").read_text()
    first = load(copied / "checkpoints" / "last.ckpt")
    assert (first["epoch"], first["global_step"]) == (0, 3)

    code = segdcn(workplace, "fit", "--trainer.max_epochs=2", "--ckpt_path=last", "--model.lr=0.01", "--wandb=offline")
    assert code == 0
    assert list(copied.parent.iterdir()) == [copied]
    assert (copied / "config.yaml").read_text() == config
    resumed = yaml.safe_load((copied / "config_resumed_1.yaml").read_text())
    assert resumed["model"]["lr"] == 0.01

    after = rows(copied)
    assert [row["step"] for row in after if row["train/loss"]] == ["0", "1", "2", "3", "4", "5"]
    assert [row["val/mIoU"] for row in after[: len(before)]] == [row["val/mIoU"] for row in before]
    assert {row["epoch"] for row in after[len(before) :]} == {"1"}
    # 0.01 * (1 - 3/6)**0.9 at the first step of the second half: the flag won, the schedule went on
    assert float(after[len(before)]["lr/head"]) == pytest.approx(0.01 * 0.5**0.9)

    second = load(copied / "checkpoints" / "last.ckpt")
    assert (second["epoch"], second["global_step"]) == (1, 6)
    assert second["hyper_parameters"]["lr"] == 0.01
    assert second["segdcn"]["wandb_id"] == first["segdcn"]["wandb_id"]
    assert len(list(copied.glob(f"wandb/offline-run-*-{first['segdcn']['wandb_id']}"))) == 2


# Averaged weights, an auxiliary head (with dropout), computed class weights, and validation by steps.
RECIPE = (
    "--model.ema_decay=0.5 --model.aux_weight=0.4 --model.class_weights=balanced --trainer.max_epochs=-1 "
    "--trainer.max_steps=6 --trainer.val_check_interval=2 --trainer.check_val_every_n_epoch=null"
)


@pytest.mark.parametrize(
    "more",
    ["--model.architecture=deeplab", "--model.architecture=deeplabv3plus", RECIPE],
    ids=["plain", "dropout", "recipe"],
)
def test_a_stopped_and_resumed_run_ends_as_one_that_was_not_stopped(more, workplace, tmp_path, monkeypatch, capsys):
    """Stopped in the middle of the second of two epochs; it goes on from the end of the first."""
    monkeypatch.chdir(workplace)
    # Lightning ignores further signals while it shuts down; this process lives on.
    monkeypatch.setattr("signal.signal", lambda *_: None)
    flags = ["--trainer.max_epochs=2", "--wandb=off", "--pictures.count=0", "--model.offset_warmup_steps=2"]
    flags += more.split()
    assert segdcn(workplace, "fit", f"--runs_dir={tmp_path}/whole", *flags) == 0

    def stop(self, batch, batch_idx, start=SegmentationTask.on_train_batch_start):
        if self.global_step == 4:
            raise KeyboardInterrupt
        start(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentationTask, "on_train_batch_start", stop)
        capsys.readouterr()
        assert segdcn(workplace, "fit", f"--runs_dir={tmp_path}/stopped", *flags) == cli.EXIT_INTERRUPTED
        assert "go on from where it was saved last with --ckpt_path last --name tried" in capsys.readouterr().err
    assert segdcn(workplace, "fit", f"--runs_dir={tmp_path}/stopped", *flags, "--ckpt_path=last") == 0

    (whole,) = tmp_path.glob("whole/*/*/checkpoints/last.ckpt")
    (stopped,) = tmp_path.glob("stopped/*/*/checkpoints/last.ckpt")
    expected, found = load(whole), load(stopped)
    assert found["global_step"] == expected["global_step"] == 6
    for weights in {"state_dict", "current_model_state"} & expected.keys():
        assert all(torch.equal(found[weights][name], value) for name, value in expected[weights].items())
    assert torch.equal(found["segdcn"]["random"]["cpu"], expected["segdcn"]["random"]["cpu"])

    # The steps that were done twice are in the table once.
    whole_rows, stopped_rows = rows(whole.parents[1]), rows(stopped.parents[1])
    assert [row["step"] for row in stopped_rows] == [row["step"] for row in whole_rows]
    for measure in ("train/loss", "val/mIoU"):
        assert [row[measure] for row in stopped_rows] == [row[measure] for row in whole_rows]


def test_going_on_with_a_finished_run_is_refused_in_one_line(copied, workplace, capsys):
    before = {path: path.lstat().st_mtime_ns for path in copied.rglob("*")}
    capsys.readouterr()
    for flag, has in {"max_epochs=1": "1 epochs; raise --trainer.max_epochs", "max_steps=3": "3 steps; raise"}.items():
        assert segdcn(workplace, "fit", "--ckpt_path=last", "--wandb=off", f"--trainer.{flag}") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"segdcn: error: the run has its {has}") and error.count("\n") == 1
    assert {path: path.lstat().st_mtime_ns for path in copied.rglob("*")} == before


def test_a_moved_run_says_its_best_and_names_the_validated_epoch(copied, workplace, capsys):
    """Epoch 2 is validated, epoch 3 is not."""
    best = max(float(row["val/mIoU"]) for row in rows(copied) if row["val/mIoU"])
    flags = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2", "--pictures.count=0", "--wandb=off"]
    assert segdcn(workplace, "fit", "--ckpt_path=last", *flags) == 0
    best = max([best, *(float(row["val/mIoU"]) for row in rows(copied) if row["val/mIoU"])])
    printed = capsys.readouterr().out
    assert f"best.ckpt  (val/mIoU {best:.4f})" in printed
    assert "validation after epoch 2" in printed


def test_a_single_callback_and_a_checkpoint_callback_of_the_user_s_own_are_taken(
    workplace, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(workplace)
    own = tmp_path / "own.yaml"
    own.write_text(
        "trainer:\n  callbacks:\n    class_path: pytorch_lightning.callbacks.ModelCheckpoint\n"
        f"    init_args: {{dirpath: {tmp_path / 'own'}}}\n"
    )
    flags = ["--trainer.max_epochs=1", "--pictures.count=0", "--wandb=off", f"--runs_dir={tmp_path}/runs"]
    assert segdcn(workplace, "fit", f"--config={own}", *flags) == 0
    assert list((tmp_path / "own").glob("*.ckpt"))
    assert "best.ckpt  (val/mIoU 0." in capsys.readouterr().out


def test_a_checkpoint_wins_over_a_file_and_says_so(copied, workplace, capsys, monkeypatch):
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    (copied.parents[2] / "model.yaml").write_text(
        "architecture: deeplab\nencoder: resnet18\ndeform_layers: 1\nlr: 0.5\n"
    )
    assert segdcn(workplace, "fit", "--ckpt_path=last", "--wandb=off") == 0
    assert "model.lr: 0.05 from the checkpoint, not 0.5; --model.lr overrules it" in capsys.readouterr().out
    assert yaml.safe_load((copied / "config_resumed_1.yaml").read_text())["model"]["lr"] == 0.05


@pytest.mark.parametrize("option", ["--model", "--model=", "--config"])
def test_a_file_that_sets_the_default_is_overruled_with_a_line_too(copied, capsys, monkeypatch, option):
    """0.01 is the default of lr, 0.05 the checkpoint's; the encoder is no default, but in no file."""
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    folder = copied.parents[2]
    (folder / "lr.yaml").write_text("model: {lr: 0.01}\n" if option == "--config" else "lr: 0.01\n")
    given = [f"{option}lr.yaml"] if option.endswith("=") else [option, "lr.yaml"]
    common = ["--config=base.yaml", "--data=shapes.yaml", "--name=tried", "--wandb=off", "--ckpt_path=last"]
    assert cli.main(["fit", *common, *given]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "overrules" in line]
    assert lines == ["segdcn: model.lr: 0.05 from the checkpoint, not 0.01; --model.lr overrules it"]


def test_a_resumed_run_fetches_no_weights_also_if_a_flag_names_some(copied, workplace, monkeypatch):
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    assert segdcn(workplace, "fit", "--ckpt_path=last", "--wandb=off", "--model.encoder_weights=imagenet") == 0
    assert yaml.safe_load((copied / "config_resumed_1.yaml").read_text())["model"]["encoder_weights"] is None


def test_a_checkpoint_of_another_network_is_refused_in_one_line(copied, workplace, capsys):
    assert segdcn(workplace, "validate", "--ckpt_path=best", "--wandb=off", "--model.encoder=resnet34") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the checkpoint holds another network" in error
    assert list(copied.parent.iterdir()) == [copied]


def test_a_checkpoint_of_other_classes_is_refused_in_one_line(copied, workplace, capsys, monkeypatch):
    monkeypatch.setattr("segdcn.data.Shapes.class_names", tuple("abcdefg"))
    monkeypatch.setattr("segdcn.data.Shapes.setup", lambda *_: None)
    assert segdcn(workplace, "validate", "--ckpt_path=best", "--wandb=off") == 2
    assert "the data has 7 (a, b, c, ...); choose data with the same classes" in capsys.readouterr().err


def test_two_runs_started_in_the_same_second_get_two_folders(workplace, tmp_path, monkeypatch):
    class Clock:
        @staticmethod
        def now():
            import datetime

            return datetime.datetime(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr("segdcn.run.datetime", Clock)
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    monkeypatch.chdir(workplace)
    for _ in range(2):
        assert segdcn(workplace, "fit", f"--runs_dir={tmp_path}", "--wandb=off") == 0
    assert sorted(path.name for path in (tmp_path / "tried").iterdir()) == [
        "2026-01-02_03-04-05",
        "2026-01-02_03-04-05-2",
    ]


def test_the_name_is_made_from_data_and_model(workplace, tmp_path, monkeypatch):
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    monkeypatch.chdir(workplace)
    for layers in (2, 0):
        flags = [f"--model.deform_layers={layers}", f"--runs_dir={tmp_path}", "--wandb=off", "--trainer.max_epochs=1"]
        assert cli.main(["fit", "--data=shapes.yaml", "--model=model.yaml", *flags]) == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["shapes-deeplab-resnet18-dcn2", "shapes-deeplab-resnet18-plain"]


@pytest.fixture(scope="module")
def by_recipe(workplace, tmp_path_factory):
    """A run with all of RECIPE; its folder and what it printed."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.chdir(workplace)
        flags = ["--wandb=off", "--pictures.count=0", f"--runs_dir={folder}", "--model.lr_batch=4", *RECIPE.split()]
        assert segdcn(workplace, "fit", *flags) == 0
    (run,) = folder.glob("tried/*")
    return run, printed.getvalue()


def test_validation_by_steps_is_kept_as_best_and_last(by_recipe):
    """Batches of 2 of 6 pictures, validated after steps 2, 4 and 6, which are 1, 3 and 5 in the table."""
    run, printed = by_recipe
    measured = {row["step"]: float(row["val/mIoU"]) for row in rows(run) if row["val/mIoU"]}
    assert list(measured) == ["1", "3", "5"]
    best, last = (load(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    assert last["global_step"] == 6
    assert measured[str(best["global_step"] - 1)] == max(measured.values())
    assert "training: 6 steps of 2 images, 2 epochs of 3 steps" in printed
    assert "model.lr 0.05 was chosen for 4 images a step, here are 2" in printed


def test_the_averaged_weights_are_what_is_measured_later(by_recipe, workplace, monkeypatch, capsys):
    run, _ = by_recipe
    monkeypatch.chdir(workplace)
    last = load(run / "checkpoints" / "last.ckpt")
    assert not torch.equal(
        *(last[key]["network.encoder.conv1.weight"] for key in ("state_dict", "current_model_state"))
    )
    seen = [float(row["val/mIoU"]) for row in rows(run) if row["val/mIoU"]][-1]
    flags = ["--wandb=off", f"--runs_dir={run.parents[1]}", "--ckpt_path=last"]
    capsys.readouterr()
    assert segdcn(workplace, "validate", *flags) == 0
    assert f"mIoU        {seen:.4f}" in capsys.readouterr().out


def test_computed_class_weights_are_numbers_in_the_checkpoint(by_recipe):
    run, printed = by_recipe
    saved = load(run / "checkpoints" / "last.ckpt")["hyper_parameters"]["class_weights"]
    assert len(saved) == 7 and len(set(saved)) > 3 and min(saved) == saved[0]  # background is the most frequent
    assert f"class weights: background {saved[0]:g}, disc " in printed


@pytest.mark.parametrize("recipe_is_last", [True, False])
def test_a_recipe_wins_where_it_is_last_and_is_named_where_it_is_not(
    recipe_is_last, workplace, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("segdcn.training.SegmentationCLI._run_subcommand", lambda *_: None)
    monkeypatch.chdir(workplace)
    (tmp_path / "recipe.yaml").write_text("data: {init_args: {batch_size: 3}}\nmodel: {lr: 0.5}\n")
    recipe = ["--config", str(tmp_path / "recipe.yaml")]
    files = ["--data=shapes.yaml", "--model=model.yaml"]
    files = files + recipe if recipe_is_last else recipe + files
    assert cli.main(["fit", *files, "--wandb=off", "--trainer.max_epochs=1", f"--runs_dir={tmp_path}"]) == 0
    (written,) = tmp_path.glob("*/*/config.yaml")
    config = yaml.safe_load(written.read_text())
    found = config["data"]["init_args"]["batch_size"], config["model"]["lr"]
    assert found == ((3, 0.5) if recipe_is_last else (2, 0.05))
    named = [line for line in capsys.readouterr().out.splitlines() if line.endswith("what comes later wins")]
    assert len(named) == (0 if recipe_is_last else 2)


def test_early_stopping_ends_a_run(workplace, tmp_path, monkeypatch, capsys):
    """Nothing rises by 2: the second validation is the first without a new best."""
    monkeypatch.chdir(workplace)
    flags = ["--trainer.max_epochs=5", "--wandb=off", "--pictures.count=0", f"--runs_dir={tmp_path}"]
    stop = ["--early_stopping.patience=1", "--early_stopping.min_delta=2"]
    assert segdcn(workplace, "fit", *flags, *stop) == 0
    (last,) = tmp_path.glob("tried/*/checkpoints/last.ckpt")
    assert load(last)["epoch"] == 1
    assert "segdcn: stopped early: no better val/mIoU than " in capsys.readouterr().out
