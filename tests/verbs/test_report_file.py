"""The file of `--json`: tried before the work, whole afterwards, and JSON that every reader takes."""

import json
import os
from pathlib import Path

import pytest

from segdcn.errors import UserValueError
from segdcn.verbs import report_file
from segdcn.verbs.report_file import check_report_file, write_report


def test_what_is_infinite_or_nan_is_null(tmp_path):
    write_report(str(tmp_path / "a.json"), {"rows": [{"difference": float("inf"), "size": (2, 3)}, float("nan"), 0.5]})

    def refuse(name):
        pytest.fail(f"{name} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"rows": [{"difference": None, "size": [2, 3]}, None, 0.5]}


def test_a_check_leaves_no_file_behind_and_waits_for_no_pipe(tmp_path):
    check_report_file(str(tmp_path / "new.json"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "old.json").write_text("old")
    check_report_file(str(tmp_path / "old.json"))
    assert (tmp_path / "old.json").read_text() == "old"
    os.mkfifo(tmp_path / "pipe")
    check_report_file(str(tmp_path / "pipe"))


def test_a_report_may_go_nowhere():
    """Also as root, who could put a file in the place of the device."""
    check_report_file("/dev/null")
    write_report("/dev/null", {})
    assert Path("/dev/null").is_char_device()


def test_a_folder_is_refused(tmp_path):
    for place in (tmp_path, tmp_path / "no" / "a.json"):
        with pytest.raises(UserValueError, match="must be a file in a folder that exists"):
            check_report_file(str(place))


def test_every_verb_writes_its_report_by_this_file():
    for path in Path(report_file.__file__).parent.glob("*.py"):
        assert "write_text(json" not in path.read_text(), path
