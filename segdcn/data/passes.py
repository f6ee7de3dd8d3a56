"""One pass over many samples, by several processes."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from torch.utils.data import Dataset

from segdcn.data.loading import Loader, start_worker

Source = TypeVar("Source")
Result = TypeVar("Result")


def each(function: Callable[[Source], Result], items: Sequence[Source], num_workers: int) -> Iterator[Result]:
    """Give `function(item)` for every item, in order.

    Args:
        function: What to do; where processes are not forked it has to be picklable, as its results.
        items: What to do it with.
        num_workers: Processes that do it; 0 does it in this one.
    """
    yield from Loader(
        _Applied(function, items),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=_unchanged,
        worker_init_fn=start_worker,
    )


class _Applied(Dataset[Any]):
    def __init__(self, function: Callable[[Any], Any], items: Sequence[Any]) -> None:
        self.function, self.items = function, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.function(self.items[index])


def _unchanged(result: Any) -> Any:
    return result
