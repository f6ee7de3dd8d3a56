"""From a picture to labels: what stands between the file and the network."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segdcn.data import transforms
from segdcn.description import Description
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.inference import Inference
from segdcn.predictor import Predictor

DESCRIPTION = Description(
    class_names=["low", "high"],
    palette=None,
    mean=[0.485, 0.456, 0.406],
    std=[0.229, 0.224, 0.225],
    size_divisor=16,
    config={"num_classes": 2},
    weights_sha256="",
)


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_images_are_normalised_as_in_validation():
    image = picture(33, 20)
    transform = transforms.EvalTransform(DESCRIPTION.mean, DESCRIPTION.std)
    expected, _ = transform(image, np.zeros((33, 20), np.uint8), (0, 0, 0))
    found = Predictor(lambda x: x, DESCRIPTION).normalised(image)
    assert torch.equal(found[0], expected)


def test_images_are_padded_with_the_mean_colour_below_and_right_and_the_padding_is_cut_off():
    seen = []

    def run(image):
        seen.append(image)
        return torch.cat([image[:, :1], 0 * image[:, :1]], dim=1)

    predictor, image = Predictor(run, DESCRIPTION), picture(33, 16)
    labels = predictor.predict(image)
    assert seen[0].shape == (1, 3, 48, 16) and seen[0][:, :, 33:].abs().max() == 0
    assert labels.shape == (33, 16) and labels.dtype == np.uint8
    assert (labels == (image[:, :, 0] / 255 < 0.485)).all()  # class 0 where red is above its mean


def test_windows_and_mirror_images_are_those_of_inference():
    """A network that looks at pixels alone gives the same in windows and mirrored."""
    seen = []

    def run(image):
        seen.append(tuple(image.shape))
        return image[:, :2]

    predictor, image = Predictor(run, DESCRIPTION), picture(40, 50)
    whole = predictor.logits(image)
    torch.testing.assert_close(predictor.logits(image, window=(32, 32)), whole)
    assert set(seen[1:]) == {(1, 3, 32, 32)} and len(seen) == 1 + 2 * 2
    torch.testing.assert_close(predictor.probabilities(image, flip=True), predictor.probabilities(image))
    with pytest.raises(UserValueError, match="the window of evaluation is"):
        predictor.predict(image, window=(30, 30))


def test_probabilities_are_the_softmax():
    predictor = Predictor(lambda image: torch.stack([image[:, 0], image[:, 0] + 1], dim=1), DESCRIPTION)
    found = predictor.probabilities(picture(5, 7))
    assert found.shape == (2, 5, 7) and found.dtype == np.float32
    np.testing.assert_allclose(found[1], 1 / (1 + np.exp(-1)), rtol=1e-6)


def test_a_path_a_pil_image_and_an_array_are_the_same_picture(tmp_path):
    image = picture(9, 12)
    Image.fromarray(image).save(tmp_path / "a.png")
    predictor = Predictor(nn.Identity(), DESCRIPTION)
    read_only = image.copy()
    read_only.flags.writeable = False
    for same in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        Image.fromarray(image),
        read_only,
        image[:, ::-1][:, ::-1],
    ):
        assert torch.equal(predictor.normalised(same), predictor.normalised(image))


def test_files_and_pil_images_are_turned_upright(tmp_path):
    image, exif = picture(9, 12), Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    predictor = Predictor(nn.Identity(), DESCRIPTION)
    expected = predictor.normalised(np.rot90(image, -1))
    assert torch.equal(predictor.normalised(tmp_path / "a.png"), expected)
    with Image.open(tmp_path / "a.png") as opened:
        assert torch.equal(predictor.normalised(opened), expected)


def test_pictures_of_one_size_are_applied_at_once():
    seen = []

    def run(image):
        seen.append(len(image))
        return image[:, :2]

    predictor, images = Predictor(run, DESCRIPTION), [picture(32, 16), picture(32, 16)[::-1]]
    together = predictor.apply(Inference(size_divisor=16), images)
    assert seen == [2]
    for one, image in zip(together, images, strict=True):
        assert torch.equal(one, predictor.logits(image)[0])


def test_many_classes_need_more_than_a_byte():
    names = [f"{index}" for index in range(300)]
    predictor = Predictor(
        lambda image: torch.eye(300)[299].view(1, 300, 1, 1).expand(1, 300, 16, 16),
        Description(**{**vars(DESCRIPTION), "class_names": names}),
    )
    assert predictor.predict(picture(3, 3)).max() == 299


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"an array \(3, 8, 8\) of uint8, but must be \(H, W, 3\) uint8 RGB"),
        (np.zeros((8, 8, 3), np.float32), "of float32"),
        (np.zeros((8, 8), np.uint8), r"an array \(8, 8\)"),
        (np.zeros((0, 8, 3), np.uint8), "at least one pixel"),
        (7, "a int"),
    ],
)
def test_other_things_are_refused(image, message):
    with pytest.raises(UserValueError, match=message):
        Predictor(nn.Identity(), DESCRIPTION).predict(image)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    predictor = Predictor(nn.Identity(), DESCRIPTION)
    with pytest.raises(InvalidDataError, match=r"a.jpg cannot be read as a picture"):
        predictor.predict(tmp_path / "a.jpg")
    with pytest.raises(MissingFileError, match="there is no picture"):
        predictor.predict(tmp_path / "b.jpg")
