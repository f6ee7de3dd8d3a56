import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from segdcn import cli
from segdcn.compare.making import make_plan
from segdcn.compare.plan import keep_plan
from segdcn.compare.tables import Table
from segdcn.verbs import compare as verb

ROOT = Path(__file__).resolve().parents[2]
FILES = ["--config=base.yaml", "--data=shapes.yaml", "--model=model.yaml"]
VARY = ["--vary", "deform_layers=0,3"]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a data set and the files of a recipe; the present one."""
    made = ["data", "make-shapes", "--output", str(tmp_path / "set"), "--train=6", "--val=3", "--size=32"]
    assert cli.main(made) == 0
    (tmp_path / "shapes.yaml").write_text(
        "class_path: segdcn.data.Shapes\ninit_args: {root: set, batch_size: 2, num_workers: 0, crop_size: 32}\n"
    )
    (tmp_path / "model.yaml").write_text("architecture: deeplabv3\nencoder: resnet18\ndeform_layers: 1\nlr: 0.05\n")
    shutil.copy(ROOT / "configs/base.yaml", tmp_path / "base.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "args,message",
    [
        ([*FILES, *VARY, "--seeds=0"], "seeds is 0"),
        ([*FILES, *VARY, "--sedes=2"], "unknown option --sedes"),
        ([*FILES, *VARY, "--model.deform_layer=2"], "unknown option --model.deform_layer"),
        ([*FILES, "--vary", "deform_layers=0,99"], "deform_layers is 99, but this encoder has"),
        ([*FILES, *VARY, "--data.root=nowhere"], "nowhere is not a folder"),
        ([*FILES, *VARY, "--ckpt_path=last"], "--ckpt_path has no place in a comparison"),
        ([*FILES, *VARY, "--name=a/b"], "'a/b' cannot be a run's name"),
        ([*FILES, *VARY, "--json=nowhere/x.json"], "json is nowhere/x.json"),
        (["--report_only", "--name=x"], "there is no comparison in"),
        (["--report_only"], "--report_only needs the --name of a comparison"),
        (
            [*FILES, *VARY, "--trainer.enable_checkpointing=false"],
            "trainer.enable_checkpointing is False; a comparison",
        ),
        ([*FILES, *VARY, "--trainer.fast_dev_run=true"], "trainer.fast_dev_run is True; a comparison"),
        ([*FILES, "--vary", "lr=1e-3,0.001"], "lr=1e-3 and lr=0.001 are one and the same"),
        ([*FILES, "--vary", "pictures.count=1,2"], "count=1 and count=2 are one and the same"),
        ([*FILES], "nothing is varied"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line_before_anything_is_made(workplace, args, message, capsys):
    before = sorted(workplace.iterdir())
    capsys.readouterr()
    assert cli.main(["compare", *args]) == cli.EXIT_USER_ERROR
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said
    assert sorted(workplace.iterdir()) == before


def test_a_dry_run_shows_commands_of_fit_and_makes_nothing(workplace, capsys):
    capsys.readouterr()
    assert cli.main(["compare", *FILES, *VARY, "--seeds=2", "--model.lr=0.5", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0::2] == [f"deform_layers={layers}-seed{seed}" for seed in (0, 1) for layers in (0, 3)]
    for flag in (*FILES, "--model.lr=0.5", "--model.deform_layers=3", "--seed_everything=1", "--data.seed=1"):
        assert flag in lines[7]
    assert not (workplace / "runs").exists()


def test_variants_start_from_the_weights_and_logits_of_the_plain_network(workplace):
    """Step 0 of two runs of one seed; another seed is another start."""
    import torch

    from segdcn.training import rehearse

    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = {}
    for layers, seed in ((0, 0), (3, 0), (0, 1)):
        task = rehearse([*FILES, f"--model.deform_layers={layers}", f"--seed_everything={seed}"]).task.eval()
        with torch.no_grad():
            logits[layers, seed] = task(image)
    # Float32 sums in another order.
    assert (logits[3, 0] - logits[0, 0]).abs().max() < 1e-4 * logits[0, 0].abs().max()
    assert (logits[0, 1] - logits[0, 0]).abs().max() > 1e-2 * logits[0, 0].abs().max()
    assert not (workplace / "runs").exists()


@pytest.mark.parametrize("order", ["0,3", "3,0"])
def test_a_plan_knows_that_variants_start_alike_in_any_order(workplace, order):
    plan = make_plan(FILES, [f"deform_layers={order}"], 1, None, "last")
    assert plan.name == "shapes-deeplabv3-resnet18-deform_layers"
    assert all(plan.starts_alike(variant) for variant in plan.variants)
    assert not any(start.offsets_move for start in plan.starts.values())
    assert len({start.weights for start in plan.starts.values()}) == 1
    heads = make_plan(FILES, ["architecture=deeplab,deeplabv3"], 1, None, "last")
    assert len({start.weights for start in heads.starts.values()}) == 2


def test_a_plan_knows_the_samples(workplace):
    def hashed():
        return make_plan(FILES, VARY[1:], 1, None, "last").data

    before = hashed()
    assert len(set(before.values())) == 1 and hashed() == before
    picture = workplace / "set/JPEGImages/val_00001.png"
    picture.write_bytes(picture.read_bytes() + b" ")
    assert set(hashed().values()).isdisjoint(before.values())


def test_a_report_alone_takes_the_plan_that_is_there(workplace, capsys):
    """What disagrees with it is named, and nothing is to be deleted."""
    folder = workplace / "runs/compare/tried"
    keep_plan(folder, make_plan(FILES, VARY[1:], 2, "tried", "last"))
    for args, message in (
        (["--name=tried"], "no run of"),
        (["--name=tried", "--checkpoint=best"], "checkpoint is best, but tried was begun with last"),
        (["--name=tried", "--seeds=7"], "seeds is 7, but tried was begun with 2"),
        (["--name=tried", "--model.lr=0.5"], "--model.lr=0.5 has no place beside --report_only"),
        (["--name=tried", *FILES, *VARY, "--seeds=2", "--model.lr=0.5"], "model.lr is 0.05 there and 0.5 here"),
        (["--name=tried", *FILES, *VARY, "--seeds=3"], "it has 3 seeds, here there are 2"),
    ):
        assert cli.main(["compare", "--report_only", *args]) == cli.EXIT_USER_ERROR
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("terminal, seeds", [(False, 5), (True, 0)])
def test_a_table_is_never_cut_off(terminal, seeds):
    """In a file it takes the width it needs; a narrow terminal gets it without its seeds."""
    head = ["minus deform_layers=0", "mean ± standard error", "95 % interval", *(f"seed {seed}" for seed in range(5))]
    content = Table(head, [["deform_layers=3", "+0.50 ± 0.25", "-0.19 to +1.19", *["+1.00"] * 5]])
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    verb._show("differences", content, console)
    printed = console.file.getvalue()
    assert "-0.19 to +1.19" in printed and "…" not in printed
    assert printed.count("+1.00") == seeds


@pytest.mark.slow
def test_a_comparison_survives_ctrl_c_and_a_kill_does_no_run_twice_and_reports(workplace):
    """Two variants with two seeds, two epochs each."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "segdcn", "compare", *FILES, *VARY, "--seeds=2", "--name=tried", "--wandb=off"]
    words += ["--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--pictures.count=0", "--json=figures.json"]
    folder = workplace / "runs" / "compare" / "tried"

    def start():
        with (workplace / "said.log").open("a") as log:
            return subprocess.Popen(words, env=environment, stdout=log, stderr=log, cwd=workplace)

    def wait_for(condition):
        until = time.monotonic() + 900
        while not condition():
            assert time.monotonic() < until, (workplace / "said.log").read_text()
            time.sleep(0.05)

    first = start()
    wait_for(lambda: list(folder.glob("runs/deform_layers=0-seed0/*/metrics.csv")))
    first.send_signal(signal.SIGINT)
    assert first.wait(300) == cli.EXIT_INTERRUPTED
    assert not (folder / "deform_layers=0-seed0.json").exists()

    second = start()
    wait_for((folder / "deform_layers=0-seed0.json").exists)
    second.kill()
    second.wait()
    finished = (folder / "deform_layers=0-seed0.json").read_text()
    wait_for(lambda: subprocess.run(["flock", "-n", folder / "lock", "true"]).returncode == 0)
    assert start().wait(1800) == 0, (workplace / "said.log").read_text()
    assert (folder / "deform_layers=0-seed0.json").read_text() == finished

    runs = sorted(path.stem for path in folder.glob("*-seed?.json"))
    assert runs == [f"deform_layers={layers}-seed{seed}" for layers in (0, 3) for seed in (0, 1)]
    for run in runs:
        record = json.loads((folder / f"{run}.json").read_text())
        assert (record["facts"]["epochs"], record["facts"]["steps"]) == (2, 6)
        assert record["cost"]["seconds_per_step"] > 0 and record["cost"]["memory"] > 1e8
        assert len(record["offsets"]) == (3 if run.startswith("deform_layers=3") else 0)
        config = yaml.safe_load((folder / record["facts"]["run"] / "config.yaml").read_text())
        assert (config["seed_everything"], config["data"]["init_args"]["seed"]) == (int(run[-1]), int(run[-1]))
    text = (folder / "report.md").read_text()
    assert (
        "| deform_layers=3 |" in text and "start from the same weights" in text and "All offsets start at zero" in text
    )
    assert (folder / "report.html").stat().st_size > 10_000
    assert len(json.loads((workplace / "figures.json").read_text())["runs"]) == 4

    def again(*rest):
        return subprocess.run([*words, *rest], env=environment, cwd=workplace, capture_output=True, text=True)

    changed = again("--model.lr=0.01")
    assert changed.returncode == cli.EXIT_USER_ERROR
    assert "model.lr is 0.05 there and 0.01 here; choose another --name" in changed.stderr
    (folder / "report.html").unlink()
    assert again("--report_only").returncode == 0
    assert (folder / "report.html").exists()
