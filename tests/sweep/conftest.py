"""A stand-in for `segdcn fit` that trains nothing, and sweep files that run it."""

import sys

import pytest
import yaml

# Does what a worker relies on: the run folder, metrics.csv, last.ckpt, going on with it, Ctrl-C.
FAKE = """#!{python}
import json, os, pathlib, sys, time

words = sys.argv[1:]
assert words[0] == "fit", words
options = dict(zip(words[1::2], words[2::2]))
settings = json.loads(pathlib.Path(options["--config"]).read_text())
name = pathlib.Path(options["--runs_dir"]) / options["--name"]
if settings.get("fail"):
    sys.exit("segdcn: error: it cannot work; mend it")
if settings.get("die"):
    os.kill(os.getpid(), 9)
first = 0
if "--ckpt_path" in options:
    assert options["--ckpt_path"] == "last"
    run = max(path.parents[1] for path in name.glob("*/checkpoints/last.ckpt"))
    first = int((run / "checkpoints" / "last.ckpt").read_text())
    if first >= settings["epochs"]:
        print(f"segdcn: error: the run has its {{first}} epochs; raise --trainer.max_epochs")
        sys.exit(2)
else:
    run = name / time.strftime("%Y-%m-%d_%H-%M-%S")
    (run / "checkpoints").mkdir(parents=True)
table = run / "metrics.csv"
if not table.exists():
    table.write_text("step,train/loss,val/mIoU\\n")
try:
    for epoch in range(first, settings["epochs"]):
        with (pathlib.Path(options["--runs_dir"]).parent / "epochs.log").open("a") as log:
            log.write(f"{{options['--name']}} {{epoch}}\\n")
        time.sleep(settings.get("pause", 0))
        with table.open("a") as file:
            score = settings["x"] * (epoch + 1) / 10
            file.write(f"{{epoch}},1.0,\\n{{epoch}},,{{'' if settings.get('mute') else score}}\\n")
        (run / "checkpoints" / "last.ckpt").write_text(str(epoch + 1))
except KeyboardInterrupt:
    (run / "interrupted").touch()
    sys.exit(130)
"""


@pytest.fixture
def sweep_file(tmp_path):
    """Write a sweep file for the stand-in; gives its path."""
    program = tmp_path / "bin" / "segdcn"
    program.parent.mkdir(exist_ok=True)
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)

    def write(parameters, method="grid", **more):
        config = {
            "program": str(program),
            "method": method,
            "metric": {"name": "val/mIoU", "goal": "maximize"},
            "parameters": parameters,
            "command": ["${env}", "${program}", "fit", "--config", "${args_json_file}"],
        }
        path = tmp_path / "tried.yaml"
        path.write_text(yaml.safe_dump(config | more, sort_keys=False))
        return path

    return write
