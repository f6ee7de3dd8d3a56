"""IoU by the size of objects, over a whole data set."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from segdcn.losses import IGNORE
from segdcn.metrics.sums import Sums
from segdcn.object_sizes import NAMES, size_of


class ObjectSizes(Sums):
    """IoU of small, medium and large objects, and how much of an object is found.

    An object is what an instance map says, or where there is none a connected region (8
    neighbours) of one class in the labels. Its size is the number of its pixels that are not
    ignored. Of a class and a size,

        IoU = right / (right + missed + false)

    `right` and `missed` are the pixels of its objects that are predicted as the class, and that are
    not. `false` are pixels predicted as the class that carry another label. They belong to no
    object, so a rule has to attribute them; each counts exactly once:

    1. The false pixels of a connected region of the prediction that meets objects of its class go
       to the nearest such object: they are what spills over its outline.
    2. Those of a region that meets none are a false object, of the size that they have together.

    So the false pixels of all sizes are those of the confusion matrix, and so are right and missed
    pixels where every pixel belongs to an object.

    `instance_iou` is the iIoU of Cityscapes, in which every object of a class weighs the same:
    right and missed pixels are weighted by the class's mean object size over the object's own. The
    official one takes the mean sizes of its training set; here they are those of the evaluated set.

    Memory does not grow with the set. Everything is NaN of a class that has no object.

    Args:
        num_classes: N; labels and predictions lie in [0, N), 255 in the labels is ignored.

    Source: sizes from COCO; iIoU from Cordts et al. 2016, section 4.1. Other rules for false pixels are
    in use: Wang et al. 2023 ("Fine-grained IoU") share them out among an image's objects by their size.
    """

    objects: Tensor
    pixels: Tensor
    found: Tensor
    images: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_sum("objects", num_classes, len(NAMES))
        self.add_sum("pixels", 3, num_classes, len(NAMES))  # right, missed, false
        self.add_sum("found", num_classes, dtype=torch.float64)  # sum over objects of the share that is right
        self.add_sum("images", 2)  # with and without an instance map

    def update(self, prediction: Tensor, labels: Tensor, instances: Tensor | None = None) -> None:
        """Add one image.

        Args:
            prediction: Class indices (H, W); 255 is none.
            labels: Class indices (H, W); 255 is ignored.
            instances: 0 is no object, each other number one object, (H, W); None takes connected regions.
        """
        truth, guess = (ids.to("cpu", torch.uint8).numpy() for ids in (labels, prediction))
        owner, classes = (
            connected_objects(truth) if instances is None else mapped_objects(truth, instances.cpu().numpy())
        )
        self.images[int(instances is None)] += 1

        # The objects; number 0 is none, and left out of everything.
        areas = np.bincount(owner.ravel(), minlength=len(classes))[1:]
        right = np.bincount(owner[truth == guess], minlength=len(classes))[1:]
        place = (classes[1:], size_of(areas))
        objects, pixels = np.zeros(self.objects.shape, np.int64), np.zeros(self.pixels.shape, np.int64)
        np.add.at(objects, place, 1)
        np.add.at(pixels[0], place, right)
        np.add.at(pixels[1], place, areas - right)
        found = np.bincount(classes[1:], right / areas, minlength=self.num_classes)

        for index, size, count in _false_pixels(guess, truth, owner, classes):
            pixels[2, index, size] += count
        self.objects += torch.from_numpy(objects).to(self.objects.device)
        self.pixels += torch.from_numpy(pixels).to(self.pixels.device)
        self.found += torch.from_numpy(found).to(self.found.device)

    def iou(self) -> Tensor:
        """IoU by class and size, (N, 3) float64."""
        right, missed, false = self._of_classes_with_objects()
        return right / (right + missed + false)

    def recall(self) -> Tensor:
        """Share of the objects' pixels that are right, by class and size, (N, 3) float64."""
        right, missed, _ = self._of_classes_with_objects()
        return right / (right + missed)

    def instance_iou(self) -> Tensor:
        """Cityscapes' iIoU, (N,) float64."""
        right, missed, false = self._of_classes_with_objects().sum(2)
        count = self.objects.sum(1)
        mean_area = (right + missed) / count
        return mean_area * self.found / (mean_area * count + false)

    def _of_classes_with_objects(self) -> Tensor:
        """Right, missed and false pixels (3, N, 3) float64, NaN for classes without objects."""
        return self.pixels.double().masked_fill((self.objects.sum(1) == 0)[None, :, None], torch.nan)


def connected_objects(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected regions of every class; 255 has none.

    Args:
        labels: (H, W) uint8.

    Returns:
        Numbers (H, W) from 1 on, 0 where there is no object, and the class of each number; that
        of 0 means nothing.
    """
    owner, classes = np.zeros(labels.shape, np.int32), [0]
    for index in _classes_in(labels):
        count, regions = cv2.connectedComponents((labels == index).astype(np.uint8))
        inside = regions > 0
        owner[inside] = regions[inside] + len(classes) - 1
        classes += [index] * (count - 1)
    return owner, np.array(classes)


def mapped_objects(labels: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the objects of an instance map; pixels to be ignored belong to none.

    Should an instance cover two classes, it is one object of each.

    Args:
        labels: (H, W) uint8.
        instances: (H, W), 0 is no object.

    Returns:
        As `connected_objects`.
    """
    inside = (instances != 0) & (labels != IGNORE)
    keys, numbers = np.unique(instances[inside].astype(np.int64) * 256 + labels[inside], return_inverse=True)
    owner = np.zeros(labels.shape, np.int32)
    owner[inside] = numbers + 1
    return owner, np.concatenate([[0], keys % 256])


def _false_pixels(
    guess: np.ndarray, truth: np.ndarray, owner: np.ndarray, classes: np.ndarray
) -> Iterator[tuple[int, int, int]]:
    """Attribute the false pixels of an image: yield class, index of the size, number of pixels."""
    areas = np.bincount(owner.ravel(), minlength=len(classes))
    for index in _classes_in(guess):
        mask = guess == index
        false = mask & (truth != index) & (truth != IGNORE)
        if not false.any():
            continue
        # Regions may reach over ignored pixels, such as the border around objects in VOC.
        count, regions = cv2.connectedComponents(mask.astype(np.uint8))
        mine = (truth == index) & (owner > 0)
        meets = np.zeros(count, bool)
        meets[regions[mine & mask]] = True

        region = regions[false]  # (number of false pixels,)
        spilt = meets[region]
        if spilt.any():
            sizes = size_of(areas[_nearest(owner, mine, false)[spilt]])
            yield from ((index, size, pixels) for size, pixels in enumerate(np.bincount(sizes).tolist()))
        alone = np.bincount(region[~spilt])
        alone = alone[alone > 0]
        yield from ((index, size, pixels) for size, pixels in zip(size_of(alone), alone, strict=True))


def _nearest(owner: np.ndarray, mine: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Give for each marked place the number of the nearest object among `mine` (in OpenCV's 5x5 distance)."""
    left, top, width, height = cv2.boundingRect((mine | places).astype(np.uint8))
    box = (slice(top, top + height), slice(left, left + width))
    owner, mine, places = owner[box], mine[box], places[box]
    _, nearest = cv2.distanceTransformWithLabels(
        (~mine).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    numbers = np.zeros(int(nearest.max()) + 1, np.int32)
    numbers[nearest[mine]] = owner[mine]
    return numbers[nearest[places]]


def _classes_in(labels: np.ndarray) -> list[int]:
    present = np.bincount(labels.ravel(), minlength=256)
    return [index for index in np.flatnonzero(present).tolist() if index != IGNORE]
