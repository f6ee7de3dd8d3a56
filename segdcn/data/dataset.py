"""The samples of one split as torch wants them: by number."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset

from segdcn.data.files import check_size
from segdcn.data.loading import Item
from segdcn.data.transforms import Key, Tensors

if TYPE_CHECKING:
    from segdcn.data.base import Sample, SegmentationData


class SegmentationDataset(Dataset[Item]):
    """The samples of one split, read and transformed on demand.

    Args:
        data: Reads the samples and knows the classes.
        samples: What to serve.
        transform: From `segdcn.data.transforms`.
        with_instances: Serve instance maps too, where there are any; they are not transformed.
    """

    def __init__(
        self,
        data: "SegmentationData",
        samples: Sequence["Sample"],
        transform: Callable[[np.ndarray, np.ndarray, Key], Tensors],
        with_instances: bool = False,
    ) -> None:
        self.data, self.samples, self.transform, self.with_instances = data, samples, transform, with_instances

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | tuple[int, int]) -> Item:
        """Return one sample; the key is an index, or `(epoch, index)` from an `EpochSampler`.

        Raises:
            MissingFileError: A file is gone.
            InvalidDataError: A file is damaged, the sizes differ, or a label is no class.
        """
        epoch, index = (0, key) if isinstance(key, int) else key
        stored = self.read(index)
        image, labels = self.transform(*stored, (self.data.seed, epoch, index))
        sample = self.samples[index]
        item: Item = {"image": image, "labels": labels, "name": sample.name}
        if self.with_instances and sample.instances is not None:
            instances = self.data.resized(self.data.read_instances(sample).astype(np.int32))
            check_size(sample.instances, instances, sample.image, stored[0])
            item["instances"] = torch.from_numpy(instances)
        return item

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a sample as it is stored: picture (H, W, 3) uint8 RGB and labels (H, W) uint8.

        Arrays from the cache cannot be written to, and their pixels are read when they are looked at.

        Raises:
            MissingFileError: A file is gone.
            InvalidDataError: A file is damaged, the sizes differ, or a label is no class.
        """
        sample, cache = self.samples[index], self.data.cached
        return (cache.open(sample) if cache is not None else None) or self.data.decode(sample)
