"""Pictures read ahead, labelled in batches, and written while the next ones are labelled."""

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from segdcn.data.files import check_file, read_picture
from segdcn.device import out_of_memory
from segdcn.errors import InvalidDataError, UserError, UserValueError
from segdcn.inference import Inference
from segdcn.prediction.inputs import Source
from segdcn.prediction.results import PROBABILITIES, Results
from segdcn.predictor import Predictor

THREADS = 4  # for reading and writing, which on a GPU take longer than labelling
MOST_WRITING = 4  # pictures whose results are held in memory until they are written
BATCHES_WAITING = 4  # as many pictures may wait for others of their size

# What the system refuses because of one file alone; anything else it would refuse for the next one too.
OF_ONE_FILE = (errno.ENAMETOOLONG, errno.EFBIG)

Read = tuple[Source, np.ndarray]


class Labelling:
    """Labels pictures.

    What cannot be read, does not fit into memory, or has results that no file can hold is noted and left
    out. After an error or Ctrl-C what had been labelled is written still.

    Args:
        predictor: Labels them.
        inference: How the network is applied.
        results: Where results go.
        batch_size: Pictures that the network sees at once, if they have the same size.
        advance: Called when a picture is done with.

    Attributes:
        finished: How many pictures have all their results.
        failed: What could not be labelled, and why.
    """

    def __init__(
        self,
        predictor: Predictor,
        inference: Inference,
        results: Results,
        batch_size: int = 1,
        advance: Callable[[], object] = lambda: None,
    ) -> None:
        self.predictor, self.inference, self.results = predictor, inference, results
        self.batch_size, self.advance = batch_size, advance
        self.finished = 0
        self.failed: list[tuple[Path, str]] = []
        self._writing: deque[tuple[Source, Future[None]]] = deque()

    def run(self, sources: Sequence[Source]) -> None:
        """Label all of them.

        Raises:
            UserValueError: A result cannot be written.
        """
        try:
            with ThreadPoolExecutor(THREADS) as pool:
                for batch in by_size(self._read_ahead(pool, sources), self.batch_size):
                    self._label(pool, batch)
                self._collect(0)
        finally:
            self.finished += sum(not write.cancelled() and write.exception() is None for _, write in self._writing)

    def _read_ahead(self, pool: ThreadPoolExecutor, sources: Sequence[Source]) -> Iterator[Read]:
        reading: deque[tuple[Source, Future[np.ndarray]]] = deque()
        for source in [*sources, *[None] * (1 + self.batch_size)]:
            if source is not None:
                reading.append((source, pool.submit(_read, source.path)))
            if reading and (source is None or len(reading) > 1 + self.batch_size):
                read, pixels = reading.popleft()
                try:
                    yield read, pixels.result()
                except UserError as error:
                    self._fail(read, str(error))

    def _label(self, pool: ThreadPoolExecutor, batch: Sequence[Read]) -> None:
        found = None
        try:
            found = self._apply([pixels for _, pixels in batch])
        except UserError as error:
            for source, _ in batch:
                self._fail(source, f"{source.path}: {error}")
            return
        except Exception as error:
            if not out_of_memory(error):
                raise
        if found is None and len(batch) == 1:
            self._fail(batch[0][0], _too_large(*batch[0]))
        elif found is None:  # one by one, out of the except above, which holds tensors of the batch
            for one in batch:
                self._label(pool, [one])
        else:
            for (source, pixels), labels, share, finite in zip(batch, *found, strict=True):
                if finite:
                    write = pool.submit(self.results.write, source.name, pixels, labels, share)
                    self._writing.append((source, write))
                else:
                    self._fail(source, f"{source.path}: what the network computes is infinite or NaN")
            self._collect(MOST_WRITING)

    def _apply(self, pictures: Sequence[np.ndarray]) -> tuple[list, list, list[bool]]:
        """Compute of each picture its labels, its probabilities if they are wanted, and whether they are numbers."""
        logits = self.predictor.apply(self.inference, pictures)  # (B, N, H, W)
        largest, labels = logits.max(1)  # (B, H, W)
        finite = largest.isfinite().flatten(1).all(1).tolist()
        wanted = PROBABILITIES in self.results.kinds
        shares = list(logits.softmax(1).half().cpu().numpy()) if wanted else [None] * len(pictures)
        return list(labels.cpu().numpy().astype(self.predictor.label_dtype)), shares, finite

    def _collect(self, left: int) -> None:
        """Wait until no more than `left` pictures are to be written."""
        while len(self._writing) > left:
            source, write = self._writing.popleft()
            try:
                write.result()
            except UserError as error:
                self._fail(source, f"{source.path}: {error}")
            except MemoryError:
                self._fail(source, f"{source.path}: its results need more memory than there is")
            except OSError as error:
                reason = error.strerror or str(error)
                if error.errno not in OF_ONE_FILE:
                    where = error.filename or self.results.folder
                    raise UserValueError(f"{where} cannot be written ({reason})") from error
                self._fail(source, f"{source.path}: its results cannot be written ({reason})")
            else:
                self.finished += 1
                self.advance()

    def _fail(self, source: Source, reason: str) -> None:
        self.failed.append((source.path, reason))
        self.advance()


def by_size(pictures: Iterable[Read], batch_size: int) -> Iterator[list[Read]]:
    """Collect pictures of one size into batches, of fewer where too many of other sizes wait."""
    waiting: dict[tuple[int, ...], list[Read]] = {}
    for picture in pictures:
        size = picture[1].shape
        waiting.setdefault(size, []).append(picture)
        if len(waiting[size]) < batch_size and sum(map(len, waiting.values())) > BATCHES_WAITING * batch_size:
            size = max(waiting, key=lambda size: len(waiting[size]))
        elif len(waiting[size]) < batch_size:
            continue
        yield waiting.pop(size)
    yield from waiting.values()


def _read(path: Path) -> np.ndarray:
    check_file(path, f"{path} does not exist")
    try:
        return read_picture(path, upright=True)
    except MemoryError as error:
        raise InvalidDataError(f"{path} does not fit into memory") from error


def _too_large(source: Source, pixels: np.ndarray) -> str:
    height, width = pixels.shape[:2]
    return f"{source.path}, {height}x{width} (height x width), needs more memory than there is; give a --window"
