"""What the README promises, tried as a newcomer would: from a bare clone."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_quickstart_learns_from_a_bare_clone(tmp_path, seed):
    """Background everywhere has an mIoU of 0.12."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    # Nothing of the environment that runs the tests may help.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SEGDCN", "VIRTUAL_ENV", "PYTHON"))}
    kept["PATH"] = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if ".venv" not in part)
    done = subprocess.run(
        ["scripts/quickstart"], cwd=clone, env={**kept, "SEGDCN_SEED": str(seed)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    scores = [float(score) for score in re.findall(r"^mIoU +([\d.]+)", done.stdout, re.MULTILINE)]
    assert len(scores) == 2  # after fit, and of the best checkpoint
    assert scores[1] >= 0.50
    shown = {path.name for path in clone.glob(f"runs/quickstart-{seed}/*/pictures/val_*.png")}
    assert len([name for name in shown if name.endswith("_sampling.png")]) == 4
    named = set(re.findall(r"`pictures/(val_\d+\w*\.png)`", (ROOT / "docs/first_pictures.md").read_text()))
    assert len(named) == 2 and named <= shown  # every run shows the same ones
