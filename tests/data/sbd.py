"""A small VOC tree and a small SBD, as their archives unpack."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from segdcn.data import VOC

SIZE = (12, 16)
LISTS = {
    "voc/ImageSets/Segmentation/train.txt": ["both", "only_voc"],
    "voc/ImageSets/Segmentation/val.txt": ["val_in_sbd", "val"],
    "sbd/train.txt": ["both", "only_sbd", "val_in_sbd"],
    "sbd/val.txt": ["only_sbd_val"],
}


def write(root: Path) -> tuple[Path, Path]:
    """Write both below a folder; the class in VOC's labels is 1, in SBD's 2."""
    for folder in ("voc/JPEGImages", "voc/SegmentationClass", "voc/ImageSets/Segmentation", "sbd/cls", "sbd/img"):
        (root / folder).mkdir(parents=True)
    for path, names in LISTS.items():
        (root / path).write_text("\n".join(names) + "\n")
        for name in names:
            picture = np.random.default_rng(list(name.encode())).integers(0, 256, (*SIZE, 3), np.uint8)
            Image.fromarray(picture).save(root / f"voc/JPEGImages/{name}.jpg")
            if path.startswith("voc"):
                ids = Image.fromarray(labels(1, border=255))
                ids.putpalette(np.array(VOC.palette, np.uint8).tobytes())
                ids.save(root / f"voc/SegmentationClass/{name}.png")
            else:
                save_mat(root / f"sbd/cls/{name}.mat", labels(2, border=0))
    return root / "voc", root / "sbd"


def labels(index: int, border: int) -> np.ndarray:
    ids = np.zeros(SIZE, np.uint8)
    ids[2:10, 2:10] = border
    ids[3:9, 3:9] = index
    return ids


def save_mat(path: Path, ids: np.ndarray) -> None:
    """Nested as SBD's files are: GTcls(1, 1) with Boundaries {20 x 1 sparse}, Segmentation, CategoriesPresent."""
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [csc_matrix(ids.shape) for _ in range(20)]
    present = np.unique(ids[ids > 0])[:, None]
    savemat(
        path,
        {"GTcls": {"Boundaries": boundaries, "Segmentation": ids, "CategoriesPresent": present}},
        do_compression=True,
    )
