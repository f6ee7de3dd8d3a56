import threading

import pytest
import torch

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.run import Run, create_run, find_checkpoint, read_checkpoint


def save(run, word="last"):
    run.checkpoints.mkdir()
    (run.checkpoints / f"{word}.ckpt").touch()
    return run.checkpoints / f"{word}.ckpt"


def test_runs_started_at_once_get_folders_of_their_own(tmp_path):
    runs = []
    threads = [threading.Thread(target=lambda: runs.append(create_run(tmp_path, "same"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.path for run in runs}) == 16
    assert all(run.path.is_dir() and run.path.parent == tmp_path / "same" for run in runs)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "two words"])
def test_a_name_that_is_no_plain_folder_name_is_refused(tmp_path, name):
    with pytest.raises(UserValueError, match="cannot be a run's name"):
        create_run(tmp_path, name)
    assert not list(tmp_path.iterdir())


def test_a_runs_dir_that_is_a_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserValueError, match="choose another --runs_dir"):
        create_run(tmp_path / "file", "name")


def test_last_is_the_newest_run_that_has_one(tmp_path):
    """The newest of all has not saved yet; -10 is younger than -2, though not in the alphabet."""
    folders = ["2026-01-02_10-00-00", "2026-01-03_10-00-00-2", "2026-01-03_10-00-00-10", "2026-01-04_10-00-00"]
    runs = [Run(tmp_path / "name" / folder) for folder in folders]
    for run in runs:
        run.path.mkdir(parents=True)
    saved = [save(run) for run in runs[:3]]
    assert find_checkpoint(tmp_path, "name", "last") == saved[2]


def test_nothing_to_resume_is_an_error_that_names_the_runs_that_could(tmp_path):
    with pytest.raises(MissingFileError, match="no run under .*name has a last.ckpt$"):
        find_checkpoint(tmp_path, "name", "last")
    save(create_run(tmp_path, "other"))
    with pytest.raises(MissingFileError, match="runs that have one: other"):
        find_checkpoint(tmp_path, "name", "last")


def test_the_first_configuration_is_kept(tmp_path):
    run = Run(tmp_path)
    for expected in ["config.yaml", "config_resumed_1.yaml", "config_resumed_2.yaml"]:
        assert run.next_config().name == expected
        run.next_config().touch()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")
    text = tmp_path / "text.ckpt"
    text.write_text("not a checkpoint")
    with pytest.raises(InvalidDataError, match="cannot be read as a checkpoint"):
        read_checkpoint(text)
    weights = tmp_path / "weights.ckpt"
    torch.save({"weight": torch.zeros(1)}, weights)
    with pytest.raises(InvalidDataError, match="not a checkpoint of segdcn"):
        read_checkpoint(weights)


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(path, **settings):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(InvalidDataError, match=r"last.ckpt cannot be read \(Permission denied\)"):
        read_checkpoint(tmp_path / "last.ckpt")
