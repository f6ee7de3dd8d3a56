"""How a run ended, said to the user: an interruption, something to mend, or an error of ours."""

import signal

from pytorch_lightning import Trainer
from pytorch_lightning.trainer.states import TrainerStatus
from pytorch_lightning.utilities.exceptions import SIGTERMException

from segdcn.errors import Diverged, InvalidDataError, NotWritten, Stopped, UserError, UserValueError, system_refusal
from segdcn.fitting import is_lost_connection, is_of_settings
from segdcn.run import Run, RunFailed


def retold(
    error: BaseException, trainer: Trainer, run: Run | None, name: str, start: str | None, begun: bool
) -> BaseException:
    """Tell an interruption from a crash, and what a user can mend from what they cannot.

    Args:
        error: What ended the run.
        trainer: What ran.
        run: Its folder; None where nothing is left behind.
        name: The run's name.
        start: The checkpoint that training goes on from; None where it does not.
        begun: What the checkpoint holds has been restored.

    Returns:
        What to raise in its place, from it; `error` itself where it says enough.
    """
    # The others do not know the folder that the first process has made.
    advice = how_to_go_on(run, name) if trainer.global_rank == 0 else ""
    match error:
        case SIGTERMException():
            # Lightning's way, a SystemExit, where nobody saves: in validate and test, and before the first step.
            return Stopped(signal.SIGTERM, advice)
        case SystemExit():
            # Lightning turns Ctrl-C into a bare exit with code 1.
            return KeyboardInterrupt(advice) if trainer.state.status == TrainerStatus.INTERRUPTED else error
        case Stopped():
            error.advice = advice
            return error
        case Diverged() | NotWritten():
            return type(error)(f"{error}{advice}")
        case UserError():
            return error
    if (refused := system_refusal(error)) is not None:
        return UserError(f"{refused}{advice}")
    if trainer.world_size > 1 and is_lost_connection(error):
        return UserError(
            f"process {trainer.global_rank} of {trainer.world_size} lost the other processes: one of "
            f"them failed, and says why, or the network did{advice}"
        )
    if start is not None and not begun:
        return InvalidDataError(
            f"training cannot go on from {start}, which is damaged or of another version: "
            f"{type(error).__name__}: {error}"
        )
    if not begun and is_of_settings(error):
        return UserValueError(f"trainer: {error}")
    return error if run is None else RunFailed(run.path)


def how_to_go_on(run: Run | None, name: str) -> str:
    """Say behind a message whether and how the run can go on."""
    if run is None or not (run.checkpoints / "last.ckpt").is_file():
        return "; nothing was saved"
    return f"; go on from where it was saved last with --ckpt_path last --name {name}"
