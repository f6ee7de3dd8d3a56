"""What a user is told about the end of a run, by what ended it and when."""

import errno
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import MisconfigurationException, SIGTERMException

from segdcn.errors import Diverged, InvalidDataError, NotWritten, Stopped, UserError, UserValueError
from segdcn.run import Run, RunFailed
from segdcn.training.endings import retold

BUG = KeyError("of ours")
FULL = OSError(errno.ENOSPC, "No space left on device", "last.ckpt")


def told(error, run=None, start=None, begun=True, processes=1, status=TrainerStatus.RUNNING):
    trainer = SimpleNamespace(state=SimpleNamespace(status=status), world_size=processes, global_rank=processes - 1)
    return retold(error, trainer, run, "tried", start, begun)


@pytest.fixture
def run(tmp_path):
    """A run that has saved a checkpoint."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    return Run(tmp_path)


@pytest.mark.parametrize("error", [UserValueError("data.root"), SystemExit(2), BUG], ids=repr)
def test_what_says_enough_stays_as_it_is(error):
    assert told(error) is error


def test_an_unexpected_error_names_the_run_folder(run):
    failed = told(BUG, run)
    assert type(failed) is RunFailed and failed.run_folder == run.path


def test_ctrl_c_is_an_interruption_again():
    ending = told(SystemExit(1), status=TrainerStatus.INTERRUPTED)
    assert type(ending) is KeyboardInterrupt and str(ending) == "; nothing was saved"


def test_a_sigterm_that_lightning_took_is_no_ctrl_c():
    ending = told(SIGTERMException(), status=TrainerStatus.INTERRUPTED)
    assert type(ending) is Stopped and (ending.signum, ending.advice) == (15, "; nothing was saved")


def test_what_was_saved_can_go_on(run):
    advice = "; go on from where it was saved last with --ckpt_path last --name tried"
    stopped = Stopped(15)
    assert told(stopped, run) is stopped and stopped.advice == advice
    for error in (Diverged("loss is nan"), NotWritten("the disk is full"), FULL):
        ending = told(error, run)
        assert isinstance(ending, UserError) and str(ending).endswith(advice)


def test_only_the_first_process_says_what_was_saved():
    """The others do not know in which folder."""
    ending = told(Stopped(15), processes=2)
    assert isinstance(ending, Stopped) and ending.advice == ""


def test_a_lost_process_is_one_of_several():
    lost = torch.distributed.DistBackendError("closed")
    assert "process 1 of 2 lost the other processes" in str(told(lost, processes=2))
    assert told(lost) is lost


def test_a_checkpoint_is_to_blame_until_the_run_has_begun(run):
    before = told(BUG, run, start="some.ckpt", begun=False)
    assert type(before) is InvalidDataError and "some.ckpt, which is damaged or of another version" in str(before)
    assert type(told(BUG, run, start="some.ckpt")) is RunFailed


def test_a_setting_is_to_blame_until_the_run_has_begun(run):
    refused = MisconfigurationException("no such strategy")
    assert str(told(refused, run, begun=False)) == "trainer: no such strategy"
    assert type(told(refused, run)) is RunFailed
