"""A loader that goes on in the middle of an epoch."""

from collections.abc import Iterator
from typing import Any

from segdcn.data.loading import EpochSampler, Loader
from segdcn.errors import UserValueError


class ResumableLoader(Loader):
    """A loader over an `EpochSampler` that knows how much of the epoch it has given.

    Lightning keeps `state_dict()` in checkpoints and gives it back before the first batch; the batches that the
    stopped run has seen are then left out without being read.
    """

    sampler: EpochSampler
    batch_size: int

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._given = 0  # batches of this epoch, those left out included
        self._leave_out = 0
        super().__init__(*args, **settings)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # A generator: torch's iterator, and with it the sampler's order, is made when the first batch is asked for, and
        # by then Lightning has said which epoch it is.
        self._given, self._leave_out = self._leave_out, 0
        self.sampler.start = self._given * self.batch_size
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return how many batches of the epoch have been given (none once it is over), and of how many."""
        return {"given": self._given % len(self), "of": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Leave out the batches that were given before.

        Raises:
            UserValueError: The epoch is half done, and has another number of batches now.
        """
        if state["given"] and state["of"] != len(self):
            raise UserValueError(
                f"the checkpoint lies after {state['given']} of the {state['of']} batches of an epoch, which has "
                f"{len(self)} now; go on with as many processes times data.batch_size as before"
            )
        self._leave_out = state["given"]
