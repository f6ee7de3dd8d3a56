"""Files that are there as a whole or not at all, and what is no file."""

import os
import threading

import pytest

from segdcn.whole_file import write_whole


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \udcff")
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_link_stays_one_and_what_it_leads_to_is_written(tmp_path):
    """As /dev/stdout is one, whose target must not be replaced while others write to it."""
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    inode = (tmp_path / "real.json").stat().st_ino
    write_whole(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink() and (tmp_path / "real.json").stat().st_ino == inode
    assert (tmp_path / "real.json").read_text() == "new"


def test_a_pipe_stays_one(tmp_path):
    path, found = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: found.append(path.read_text()), daemon=True)
    reader.start()
    write_whole(path, "new")
    reader.join(10)
    assert found == ["new"] and path.is_fifo() and list(tmp_path.iterdir()) == [path]
