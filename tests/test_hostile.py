"""scripts/check_hostile, with few mutations of each category."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_whatever_is_wrong_ends_in_one_line(request):
    script = request.config.rootpath / "scripts/check_hostile"
    # What the limit is about is a hang; a busy machine is none.
    command = [sys.executable, script, "--each=2", "--seed=2", "--limit=120"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr
