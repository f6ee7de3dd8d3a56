"""Bad data gives one line: what came, what was expected, what to do."""

import re

import numpy as np
import pytest
from PIL import Image

from segdcn.data import VOC, Shapes, original_message
from segdcn.errors import InvalidDataError, MissingFileError, UserError, UserValueError


def refusal(root, stage="fit", **settings):
    """The one line that `stage` and, if it passes, an epoch of each loader end in."""
    data = VOC(str(root), **{"batch_size": 3, "crop_size": 32, "num_workers": 0} | settings)
    with pytest.raises(UserError) as caught:
        data.setup(stage)
        list(data.train_dataloader())
        list(data.val_dataloader())
    message = original_message(caught.value)
    assert "\n" not in message
    return caught.type, message


def save_labels(root, name, labels):
    Image.fromarray(labels).save(root / "SegmentationClass" / f"{name}.png")


def test_a_missing_root_is_named(tmp_path):
    kind, message = refusal(tmp_path / "nowhere")
    assert kind is MissingFileError and message == f"data.root {tmp_path}/nowhere is not a folder; set --data.root"


def test_another_data_set_at_the_root_is_said_to_be_none_of_ours(tmp_path):
    for folder in ("gtFine", "leftImg8bit"):
        (tmp_path / folder).mkdir()
    kind, message = refusal(tmp_path)
    assert kind is MissingFileError
    assert "expected JPEGImages, SegmentationClass, ImageSets/Segmentation; found gtFine, leftImg8bit" in message


@pytest.mark.parametrize("above", [1, 2])
def test_a_folder_above_the_root_gets_the_right_one_proposed(tmp_path, above):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    (root / "JPEGImages").mkdir(parents=True)
    kind, message = refusal(root.parents[above - 1])
    assert kind is MissingFileError and message.endswith(f"set --data.root {root}")


def test_a_split_without_a_list_gets_those_there_are(tiny_voc):
    kind, message = refusal(tiny_voc, train_split="trainaug")
    assert kind is MissingFileError and message.endswith("no split 'trainaug'; splits in this folder: train, val")


def test_an_empty_split_list_is_refused(tiny_voc):
    (tiny_voc / "ImageSets/Segmentation/train.txt").write_text("\n")
    kind, message = refusal(tiny_voc)
    assert kind is InvalidDataError and message == f"the split 'train' of {tiny_voc} lists no images"


def test_a_listed_image_that_is_missing_is_named(tiny_voc):
    (tiny_voc / "JPEGImages/b.jpg").unlink()
    kind, message = refusal(tiny_voc)
    assert kind is MissingFileError
    assert message == f"{tiny_voc}/JPEGImages/b.jpg does not exist, but the split 'train' lists it"


def test_an_image_without_a_label_file_is_named_with_the_file_expected(tiny_voc):
    (tiny_voc / "SegmentationClass/b.png").unlink()
    kind, message = refusal(tiny_voc)
    assert kind is MissingFileError
    assert message == f"{tiny_voc}/JPEGImages/b.jpg has no label file; expected {tiny_voc}/SegmentationClass/b.png"


def test_a_file_that_vanishes_after_setup_is_named(tiny_voc):
    data = VOC(str(tiny_voc), batch_size=3, crop_size=32, num_workers=0)
    data.setup("fit")
    (tiny_voc / "JPEGImages/b.jpg").unlink()
    with pytest.raises(MissingFileError, match="b.jpg does not exist"):
        list(data.val_dataloader())


def test_a_label_outside_the_classes_is_named_with_file_count_and_what_is_allowed(tiny_voc):
    labels = np.zeros((50, 20), np.uint8)
    labels[1, :3] = 21
    save_labels(tiny_voc, "b", labels)
    kind, message = refusal(tiny_voc)
    assert kind is InvalidDataError
    assert message == (
        f"{tiny_voc}/SegmentationClass/b.png holds the label 21 in 3 pixels; "
        "expected 0 to 20, or 255 for pixels to ignore"
    )


def test_labels_of_another_size_than_the_image_are_refused(tiny_voc):
    save_labels(tiny_voc, "b", np.zeros((20, 50), np.uint8))
    kind, message = refusal(tiny_voc)
    assert kind is InvalidDataError and "20x50 pixels (height x width), but its image" in message
    assert message.endswith("b.jpg is 50x20")


def test_labels_stored_as_colours_are_refused(tiny_voc):
    save_labels(tiny_voc, "b", np.zeros((50, 20, 3), np.uint8))
    kind, message = refusal(tiny_voc)
    assert kind is InvalidDataError and "b.png has mode RGB; expected one id per pixel" in message


@pytest.mark.parametrize("file", ["JPEGImages/b.jpg", "SegmentationClass/b.png"])
@pytest.mark.parametrize("kept", [0, 12, 0.7])
def test_a_damaged_file_is_named(tiny_voc, file, kept):
    """Empty, not recognisable, and cut short in the middle of its pixels."""
    content = (tiny_voc / file).read_bytes()
    (tiny_voc / file).write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    kind, message = refusal(tiny_voc)
    assert kind is InvalidDataError
    assert message.startswith(f"{tiny_voc}/{file} ") and message.endswith("replace the file")


def test_a_training_set_smaller_than_a_batch_is_refused(tiny_voc):
    kind, message = refusal(tiny_voc, batch_size=4)
    assert kind is UserValueError
    assert message.startswith("the training set has 3 images, fewer than one batch of 4; set --data.batch_size to 3")


def test_instances_of_a_set_without_them_are_refused(tiny_voc):
    data = VOC(str(tiny_voc))
    with pytest.raises(UserValueError, match="a has no instance map"):
        data.read_instances(data.samples("train")[0])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_worker_keeps_its_class_and_its_line(tiny_voc, num_workers):
    """Torch puts the worker's traceback into the message; `original_message` takes it out again."""
    save_labels(tiny_voc, "b", np.full((50, 20), 77, np.uint8))
    kind, message = refusal(tiny_voc, num_workers=num_workers)
    assert kind is InvalidDataError
    assert re.fullmatch(r"\S+/b\.png holds the label 77 in 1000 pixels; expected .* to ignore", message)


def test_an_error_that_no_worker_wrapped_keeps_its_message():
    assert original_message(MissingFileError("no such file: x")) == "no such file: x"


def test_shapes_that_were_not_finished_say_how_to_make_them_again(shapes_root, tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(InvalidDataError, match=r"is incomplete: .* segdcn data make-shapes --output .* --overwrite"):
        Shapes(str(tmp_path)).setup("fit")


def test_shapes_at_a_voc_tree_are_refused(tiny_voc):
    with pytest.raises(MissingFileError, match="is no Shapes data set"):
        Shapes(str(tiny_voc)).setup("fit")
