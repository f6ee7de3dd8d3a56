"""What a user caused, told apart from what went wrong in here.

The command line turns a `UserError` into one line and any other exception into a
traceback file, so raise these only where the cure lies with the user: the message says
what came, what was expected and what to do.
"""

import errno
import re
import signal

# What the operating system refuses for a reason that lies outside of this program: permissions, paths, room, limits.
_SYSTEM = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ESTALE),
}
# torch's words for it, on the CPU and on a GPU.
_NO_MEMORY = re.compile("can't allocate memory|out of memory|Invalid buffer size|Storage size calculation overflowed")


class UserError(Exception):
    """Something the user gave or set cannot work; the message is one clear line."""


class UserValueError(UserError, ValueError):
    """A value does not fit: a size, a setting, a tensor's shape."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that should be there is not."""


class MissingLibraryError(UserError, ImportError):
    """A compiled library is not there; the message says how to build it."""


class InvalidDataError(UserError, ValueError):
    """A file is there and holds something it should not."""


class Diverged(UserError):
    """Training has come to infinite, NaN or huge numbers; checkpoints from before that are kept."""


class NotWritten(UserError):
    """A checkpoint could not be written; those from before are kept."""


class Stopped(BaseException):
    """The system or the user asked the run to stop, and it did so in an orderly way.

    Attributes:
        signum: The signal that asked; the exit code is 128 more.
        advice: How to go on.
    """

    def __init__(self, signum: int, advice: str = "") -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.advice = signum, advice


def system_refusal(error: BaseException | None) -> str | None:
    """Say in a line what the operating system refused; None where the error is another."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))):
        return "there is not enough memory; make batches, crops, windows or the network smaller"
    if not isinstance(error, OSError) or error.errno not in _SYSTEM:
        return None
    return f"{error.filename or 'a file could not be read or written'}: {error.strerror}"
