"""The official tree, read as it is."""

import numpy as np
from PIL import Image

from segdcn.data import VOC


def test_the_lists_of_the_tree_are_the_splits(voc_root):
    data = VOC(str(voc_root))
    for split, count in {"train": 155, "val": 44, "trainval": 199}.items():
        assert len(data.samples(split)) == count


def test_label_maps_are_palette_indices_not_colours(voc_root):
    data = VOC(str(voc_root))
    dataset = data.eval_dataset("val")
    found = set()
    for index in range(len(dataset)):
        found |= set(np.unique(dataset.read(index)[1]).tolist())
    assert found <= {*range(21), 255} and 255 in found and len(found) > 15


def test_our_palette_is_the_one_inside_the_official_files(voc_root):
    data = VOC(str(voc_root))
    with Image.open(data.samples("val")[0].labels) as official:
        stored = np.array(official.getpalette()).reshape(-1, 3)
    assert (stored[:21] == np.array(data.palette)).all()


def test_a_training_batch_of_real_pictures_is_normalised_and_cropped(voc_root):
    data = VOC(str(voc_root), batch_size=8, crop_size=128, num_workers=0, train_limit=8)
    data.setup("fit")
    (batch,) = list(data.train_dataloader())
    assert batch["image"].shape == (8, 3, 128, 128)
    # ImageNet's statistics on 8 crops: about 0 and 1, not 0..255 and not 0..1.
    assert abs(batch["image"].mean()) < 1 and 0.5 < batch["image"].std() < 1.6
    assert set(batch["labels"].unique().tolist()) <= {*range(21), 255}


def test_validation_pads_at_the_bottom_and_on_the_right_only(voc_root):
    data = VOC(str(voc_root), num_workers=0, eval_limit=3)
    for batch, item in zip(data.val_dataloader(), data.eval_dataset("val"), strict=True):
        height, width = item["labels"].shape
        assert batch["image"].shape[-2:] == (-(-height // 32) * 32, -(-width // 32) * 32)
        assert (batch["labels"][0, :height, :width] == item["labels"]).all()
        assert (batch["labels"][0, height:] == 255).all() and (batch["labels"][0, :, width:] == 255).all()
