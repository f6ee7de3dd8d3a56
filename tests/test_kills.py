"""scripts/check_kills, with few kills."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_killed_runs_go_on_and_end_as_the_one_that_was_not(request):
    script = request.config.rootpath / "scripts/check_kills"
    command = [sys.executable, script, "--kills=3", "--writes=1", "--seed=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 kills, ")
