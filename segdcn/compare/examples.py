"""Images on which the variants differ most."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segdcn.callbacks.evidence import FILE as EVIDENCE
from segdcn.callbacks.evidence import read_prediction
from segdcn.compare.plan import Plan
from segdcn.compare.record import Record
from segdcn.data.base import SegmentationData
from segdcn.errors import InvalidDataError, MissingFileError


@dataclass(frozen=True)
class Example:
    """An image with the predictions of all variants.

    Attributes:
        name: Of the sample.
        differ: Share of the counted pixels on which not all agree.
        image: Pixels (H, W, 3) uint8.
        labels: Class ids (H, W), 255 where nothing counts.
        predictions: By variant, class ids (H, W).
    """

    name: str
    differ: float
    image: np.ndarray
    labels: np.ndarray
    predictions: dict[str, np.ndarray]


def find(folder: Path, plan: Plan, records: list[Record], data: SegmentationData, count: int) -> list[Example]:
    """Find the images on which the predictions of the first seed differ most.

    Args:
        folder: The comparison's.
        plan: What is compared.
        records: Of the runs that are finished.
        data: The data set, whose validation images are shown.
        count: How many.

    Raises:
        InvalidDataError: A prediction is of another image: the data were changed.
        MissingFileError: A prediction is gone.
    """
    runs = {record.variant: folder / record.facts["validation"] for record in records if record.seed == plan.seeds[0]}
    if len(runs) < 2 or not count:
        return []
    if gone := next((run for run in runs.values() if not (run / EVIDENCE).is_file()), None):
        raise MissingFileError(f"{gone} is gone, with the predictions")
    kept = [set(json.loads((run / EVIDENCE).read_text())["predictions"].items()) for run in runs.values()]
    dataset = data.eval_dataset(data.val_split)
    shares = []
    for key, name in sorted(set.intersection(*kept)):
        index = int(key)
        if index >= len(dataset.samples) or dataset.samples[index].name != name:
            raise InvalidDataError(f"image {index} of the validation set is not {name} any more: the data were changed")
        labels = data.decode(dataset.samples[index]).labels
        guesses = [read_prediction(run, index) for run in runs.values()]
        if any(guess.shape != labels.shape for guess in guesses):
            raise InvalidDataError(f"{name} has another size than when it was predicted: the data were changed")
        counted = labels != data.ignore_index
        differ = np.any([guess != guesses[0] for guess in guesses[1:]], axis=0) & counted
        if differ.any():
            shares.append((differ.sum() / counted.sum(), index))
    shares.sort(key=lambda pair: (-pair[0], pair[1]))
    examples = []
    for share, index in shares[:count]:
        sample = dataset.samples[index]
        decoded = data.decode(sample)
        predictions = {name: read_prediction(run, index) for name, run in runs.items()}
        examples.append(Example(sample.name, float(share), decoded.image, decoded.labels, predictions))
    return examples
