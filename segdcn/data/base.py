"""Data sets: list the samples, read them, serve batches.

A data set is one subclass of `SegmentationData` and one YAML. The subclass names its
classes and colours and lists its files; everything else is here.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from segdcn.data.cache import Decoded, Kind, SampleCache, folder_name
from segdcn.data.dataset import SegmentationDataset
from segdcn.data.files import check_file, check_size, read_id_map, read_picture, write_id_map
from segdcn.data.loading import IGNORE_INDEX, EpochSampler, Loader, PadAndStack, start_worker
from segdcn.data.resumable import ResumableLoader
from segdcn.data.settings import check_settings
from segdcn.data.transforms import EvalTransform, TrainTransform
from segdcn.errors import InvalidDataError, MissingFileError, UserError, UserValueError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Sample:
    """Where one sample lies.

    Attributes:
        name: Unique within its split; batches carry it.
        image: The picture.
        labels: The label map.
        instances: The instance map, where the data set has one.
    """

    name: str
    image: Path
    labels: Path
    instances: Path | None = None

    def required(self, split: str) -> list[tuple[Path, str]]:
        """Name the files that have to be there, each with what to say when it is not."""
        return [
            (self.image, f"{self.image} does not exist, but the split {split!r} lists it"),
            (self.labels, f"{self.image} has no label file; expected {self.labels}"),
        ]


class SegmentationData(pl.LightningDataModule):
    """Base of every data set: batches for training, validation and test.

    A subclass sets `class_names` and `palette` and implements `list_samples`; it overrides
    `read_labels` if its files need mapping to class ids. Batches are
    `{"image": (B, 3, H, W) float32 normalised, "labels": (B, H, W) int64 with 255 = ignore,
    "name": list[str]}`, and what `segdcn.data.loading.Batch` adds.

    Training batches are augmented crops (see `segdcn.data.transforms.TrainTransform`), shuffled, and the
    last incomplete batch of an epoch is left out. Every random choice follows from (seed,
    epoch, index), so a run repeats whatever the number of workers. Validation and test
    give whole images in their original size and order.

    Args:
        root: Folder of the data set, as the head of its YAML in configs/data says.
        batch_size: Images per training step.
        eval_batch_size: Images per validation or test step. Images of different size are
            padded to the largest in their batch; with 1 no image's numbers depend on its
            neighbours.
        num_workers: Processes that read and augment; 0 does it in the main process. The
            numbers stay the same.
        resize: [height, width] that every picture and label map is read at, in training and evaluation:
            the task is then that of smaller pictures, and is scored as such. null keeps each at its own size.
        crop_size: Training crop in pixels: one number or [height, width]; multiples of
            `size_divisor`. Larger crops show more context and cost time and memory.
        scale_range: Smallest and largest factor by which a training image is scaled before
            cropping, uniformly drawn. [1, 1] leaves sizes alone.
        flip_prob: Probability of mirroring left to right, 0 to 1.
        cat_max_ratio: A crop in which one class has more than this share of the pixels that are not
            ignored is drawn again, up to 10 times in all; above 0, and 1 is off.
        rotation: Largest angle in degrees by which a crop is turned to either side; 0 is off.
        blur: Probability of blurring, by a standard deviation of 0.3 to 2 pixels; 0 is off.
        colour_jitter: Brightness, contrast and saturation change by up to a factor of 1 +- this,
            hue by up to a quarter of it (1 is the full circle); 0 to 1, 0 is off.
        mean: Channel means (R, G, B) subtracted from values in 0..1. ImageNet's by default;
            pretrained encoders expect those.
        std: Channel standard deviations to divide by, likewise.
        seed: Seed of order and augmentation, 0 or more.
        size_divisor: The network takes sizes that are multiples of this: its output
            stride, or a multiple of that. Evaluation pads with the mean colour and label 255
            at the bottom and on the right.
        train_split: Split to train on.
        val_split: Split to validate on.
        test_split: Split to test on.
        train_limit: Train on the first n samples only; null takes all. For trials: a network
            that cannot overfit 8 images has a bug.
        eval_limit: Validate and test on the first n samples only; null takes all.
        cache: Decode what `fit` reads once, and then read crops: from `disk`, files that stay, or from
            `ram`, shared memory that the last process to use it frees. Takes 4 bytes a pixel; null
            decodes every time. The pixels are the same.
        cache_dir: Folder for `cache: disk`; null is ~/.cache/segdcn. What no run has used for 90 days is
            removed from it.
    """

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int = IGNORE_INDEX

    with_instances = True  # evaluation batches carry the instance maps that the set has
    labels_needed = True  # False: a split without any label file is no error, its labels are all 255

    def __init__(
        self,
        root: str,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        resize: tuple[int, int] | None = None,
        crop_size: int | tuple[int, int] = 512,
        scale_range: tuple[float, float] = (0.5, 2.0),
        flip_prob: float = 0.5,
        cat_max_ratio: float = 1.0,
        rotation: float = 0.0,
        blur: float = 0.0,
        colour_jitter: float = 0.0,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        seed: int = 0,
        size_divisor: int = 32,
        train_split: str = "train",
        val_split: str = "val",
        test_split: str = "val",
        train_limit: int | None = None,
        eval_limit: int | None = None,
        cache: Kind | None = None,
        cache_dir: str | None = None,
    ) -> None:
        # What a subclass has set before it called this, which is its own all the same.
        own = set(vars(self))
        super().__init__()
        self.root = Path(root).expanduser()
        self.batch_size, self.eval_batch_size, self.num_workers = batch_size, eval_batch_size, num_workers
        self.resize = None if resize is None else (resize[0], resize[1])
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else (crop_size[0], crop_size[1])
        self.scale_range = (scale_range[0], scale_range[1])
        self.flip_prob, self.colour_jitter = flip_prob, colour_jitter
        self.cat_max_ratio, self.rotation, self.blur = cat_max_ratio, rotation, blur
        self.mean, self.std = list(mean), list(std)
        self.seed, self.size_divisor = seed, size_divisor
        self.train_split, self.val_split, self.test_split = train_split, val_split, test_split
        self.train_limit, self.eval_limit = train_limit, eval_limit
        self.cache, self.cache_dir = cache, cache_dir
        self.cached: SampleCache | None = None  # opened when `fit` is set up
        self._listed: dict[str, list[Sample]] = {}
        check_settings(self)
        self._common = set(vars(self)) - own

    # What a data set says about itself

    @property
    def num_classes(self) -> int:
        """N, the number of classes; background is one of them, 255 is not."""
        return len(self.class_names)

    def list_samples(self, split: str) -> list[Sample]:
        """List the samples of a split, in a fixed order; whether the files exist is checked later.

        Raises:
            MissingFileError: The root holds something else, or there is no such split.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement list_samples")

    def read_labels(self, sample: Sample) -> np.ndarray:
        """Read labels as class ids (H, W) in 0..N-1 or 255; here: the ids as they are stored."""
        return read_id_map(sample.labels)

    def check_labels(self, labels: np.ndarray, path: Path) -> None:
        """Refuse a label map, read from `path`, in which something else stands than classes and 255.

        Raises:
            InvalidDataError: It does; the message says what and how often.
        """
        wrong = (labels >= self.num_classes) & (labels != IGNORE_INDEX) | (labels < 0)
        if wrong.any():
            raise InvalidDataError(
                f"{path} holds the label {int(labels[wrong][0])} in {int(wrong.sum())} pixels; "
                f"expected 0 to {self.num_classes - 1}, or {IGNORE_INDEX} for pixels to ignore"
            )

    def own_settings(self) -> dict[str, Any]:
        """Give the settings that only this data set has; what is decoded may depend on them."""
        return {name: value for name, value in sorted(vars(self).items()) if name not in self._common | {"_common"}}

    def read_instances(self, sample: Sample) -> np.ndarray:
        """Read the instance map (H, W): 0 is no instance, each other number one object.

        Raises:
            UserValueError: This data set has no instance maps.
        """
        if sample.instances is None:
            raise UserValueError(f"{sample.name} has no instance map; {self.root} holds only class labels")
        return read_id_map(sample.instances)

    def label_files(self, folder: Path) -> dict[str, Path]:
        """Find the label PNGs below a folder, by the name of their sample; for scoring without images."""
        return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.png"))}

    def instance_file(self, labels: Path) -> Path | None:
        """Find the instance map that belongs to a label PNG; None if there is none."""
        return None

    def write_prediction(self, folder: Path, split: str, name: str, prediction: np.ndarray) -> Path:
        """Write a predicted label map for the data set's own evaluation.

        Args:
            folder: Folder of the submission; files go below it.
            split: Split that the sample is of.
            name: Name of the sample.
            prediction: Class ids (H, W) uint8 at the original size.

        Returns:
            The file: here `<name>.png` with class ids and palette.

        Raises:
            InvalidDataError: The name leads out of the folder.
        """
        path = folder / f"{name}.png"
        if ".." in path.relative_to(folder).parts:  # a list may name pictures so
            raise InvalidDataError(f"the sample {name} cannot be written below {folder}; its name leads out of it")
        write_id_map(path, prediction, self.palette)
        return path

    @property
    def categories(self) -> dict[str, list[int]]:
        """Groups of classes that are scored together too, by name; none here."""
        return {}

    # From splits to samples

    def samples(self, split: str) -> list[Sample]:
        """List the samples of a split, checked: the files are there, and there is at least one.

        Raises:
            MissingFileError: The root, the split, an image or a label file is missing.
            InvalidDataError: The split is empty.
        """
        if split not in self._listed:
            samples = self.listed(split)
            unlabelled = not self.labels_needed and not any(sample.labels.is_file() for sample in samples)
            for sample in samples:
                for path, missing in sample.required(split):
                    if path != sample.labels or not unlabelled:
                        check_file(path, missing)
                if sample.image == sample.labels:
                    raise InvalidDataError(f"{sample.image} is listed as its own label map in the split {split!r}")
            self._listed[split] = samples
        return self._listed[split]

    def check_root(self) -> None:
        """Refuse a root that is no folder.

        Raises:
            MissingFileError: It is none.
        """
        if not os.path.isdir(self.root):
            raise MissingFileError(f"data.root {self.root.absolute()} is not a folder; set --data.root")

    def listed(self, split: str) -> list[Sample]:
        """List the samples of a split, at least one; whether their files exist is not checked.

        Raises:
            MissingFileError: The root or the split is missing.
            InvalidDataError: The split is empty, or its list cannot be read.
        """
        self.check_root()
        try:
            samples = self.list_samples(split)
        except UserError:
            raise
        except OSError as error:
            raise InvalidDataError(f"{error.filename or self.root} cannot be read ({error.strerror})") from error
        if not samples:
            raise InvalidDataError(f"the split {split!r} of {self.root} lists no images")
        return samples

    def decode(self, sample: Sample) -> Decoded:
        """Read a sample from its files, checked.

        Raises:
            MissingFileError: A file is gone.
            InvalidDataError: A file is damaged, the sizes differ, or a label is no class.
        """
        image = read_picture(sample.image)
        if not self.labels_needed and not sample.labels.is_file():
            return Decoded(image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8))
        labels = self.read_labels(sample)
        check_size(sample.labels, labels, sample.image, image)
        self.check_labels(labels, sample.labels)
        return Decoded(self.resized(image), self.resized(labels.astype(np.uint8)))

    def resized(self, pixels: np.ndarray) -> np.ndarray:
        """Bring a picture (H, W, 3) or a map of ids (H, W) to the size that `resize` asks for, if it does."""
        if self.resize is None or pixels.shape[:2] == self.resize:
            return pixels
        height, width = self.resize
        if pixels.ndim == 2:
            return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        shrunk = height <= pixels.shape[0] and width <= pixels.shape[1]
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrunk else cv2.INTER_LINEAR)

    def train_dataset(self) -> SegmentationDataset:
        """Return the augmented training samples."""
        transform = TrainTransform(
            crop_size=self.crop_size,
            scale_range=self.scale_range,
            flip_prob=self.flip_prob,
            colour_jitter=self.colour_jitter,
            mean=self.mean,
            std=self.std,
            cat_max_ratio=self.cat_max_ratio,
            rotation=self.rotation,
            blur=self.blur,
        )
        return SegmentationDataset(self, self.samples(self.train_split)[: self.train_limit], transform)

    def eval_dataset(self, split: str) -> SegmentationDataset:
        """Return the samples of a split as they are: original size and order, only normalised."""
        transform = EvalTransform(self.mean, self.std)
        return SegmentationDataset(self, self.samples(split)[: self.eval_limit], transform, self.with_instances)

    # The cache

    def open_cache(self) -> SampleCache | None:
        """Open the cache that the settings ask for, if they do; from then on samples come from it.

        Raises:
            UserValueError: Its folder cannot be written.
        """
        if self.cache is not None and self.cached is None:
            parent = Path(self.cache_dir).expanduser() if self.cache_dir is not None else None
            self.cached = SampleCache(self.cache, folder_name(self), parent, self.resize)
        return self.cached

    def _read_by_fit(self) -> list[Sample]:
        return [
            *self.samples(self.train_split)[: self.train_limit],
            *self.samples(self.val_split)[: self.eval_limit],
        ]

    # What Lightning calls

    def prepare_data(self) -> None:
        """Fill the cache with what `fit` reads; Lightning has one process of each machine do it."""
        if self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING:
            return
        if cache := self.open_cache():
            first = self.trainer is None or self.trainer.is_global_zero
            cache.fill(self._read_by_fit(), self.decode, threads=max(1, self.num_workers), quiet=not first)

    def setup(self, stage: str) -> None:
        """List what `stage` needs (fit, validate, test or predict), so that a wrong root stops a run at once."""
        if stage == "fit":
            count = len(self.train_dataset())
            if count < self.batch_size:
                raise UserValueError(
                    f"the training set has {count} images, fewer than one batch of {self.batch_size}; "
                    f"set --data.batch_size to {count} or less"
                )
        if stage in ("fit", "validate"):
            self.samples(self.val_split)
        if stage == "fit" and (cache := self.open_cache()):
            cache.check_space(self._read_by_fit())
        if stage in ("test", "predict"):
            self.samples(self.test_split)

    def train_dataloader(self) -> DataLoader:
        """Serve shuffled, augmented batches; the incomplete last batch of an epoch is left out.

        A batch of one image would break the batch normalisation after ASPP's pooling.
        """
        dataset = self.train_dataset()
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        sampler = EpochSampler(len(dataset), self.seed, True, epoch, *self._share())
        return self.loader(dataset, sampler, self.batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        """Serve the validation split."""
        return self._eval_loader(self.val_split)

    def test_dataloader(self) -> DataLoader:
        """Serve the test split."""
        return self._eval_loader(self.test_split)

    def _eval_loader(self, split: str) -> DataLoader:
        dataset = self.eval_dataset(split)
        rank, processes = self._share()
        # Not padded to equal shares, as torch's DistributedSampler would: no sample counts twice.
        return self.loader(dataset, range(rank, len(dataset), processes), self.eval_batch_size, drop_last=False)

    def _share(self) -> tuple[int, int]:
        """Return which process this is, and of how many."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def loader(self, dataset: SegmentationDataset, sampler: Any, batch_size: int, drop_last: bool) -> DataLoader:
        """Serve the samples whose keys `sampler` gives, in batches, as training and validation do."""
        kind = ResumableLoader if isinstance(sampler, EpochSampler) else Loader
        return kind(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            collate_fn=PadAndStack(self.size_divisor),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=start_worker,
            # Its own generator: loaders draw a seed per pass, from the global state otherwise.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are not forked get a pickled copy; the trainer has no place in it.
        return {key: value for key, value in self.__dict__.items() if key != "trainer"} | {"trainer": None}
