"""All measures together: batches, processes and devices make no difference."""

import json

import pytest
import torch
import torch.distributed

from segdcn.metrics import Evaluation


def batches(count):
    """Batches of two images of 20x30 and 24x26 pixels, padded to 24x32, with instances."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        labels = torch.randint(0, 3, (2, 6, 8), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
        logits = 2 * torch.randn(2, 3, 24, 32, generator=generator) + 4 * torch.eye(3)[labels].permute(0, 3, 1, 2)
        sizes = [(20, 30), (24, 26)]
        for image, (height, width) in zip(labels, sizes, strict=True):
            image[height:] = image[:, width:] = 255
        instances = (labels == 1).int() * (1 + torch.arange(32, dtype=torch.int32) // 8)
        yield {
            "prediction": logits.argmax(1),
            "labels": labels,
            "logits": logits,
            "sizes": sizes,
            "instances": instances,
        }


def counted(parts, device="cpu"):
    evaluation = Evaluation(3).to(device)
    for part in parts:
        evaluation.update(**{key: v.to(device) if isinstance(v, torch.Tensor) else v for key, v in part.items()})
    return evaluation


def test_padding_and_batching_change_nothing():
    """The same images one by one, each cut to its size."""
    single = [
        {key: part[key][i : i + 1, ..., :height, :width] for key in ("prediction", "labels", "logits", "instances")}
        for part in batches(3)
        for i, (height, width) in enumerate(part["sizes"])
    ]
    together, apart = counted(batches(3)), counted(single)
    assert together.results("abc") == apart.results("abc") and int(together.images) == 6


def test_two_processes_count_what_one_would(monkeypatch):
    """Half of the batches each; summing over processes reaches every number that is kept."""
    parts = list(batches(4))
    whole, mine, other = counted(parts), counted(parts[:2]), counted(parts[2:])
    others = iter(other.buffers())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.add_(next(others)))
    mine.sync()
    assert next(others, None) is None
    expected = dict(whole.named_buffers())
    assert len(expected) == 11
    for name, total in mine.named_buffers():
        torch.testing.assert_close(total, expected[name])


def test_a_device_changes_nothing(device):
    found, expected = (counted(batches(2), where).results("abc") for where in (device, "cpu"))
    error = found["calibration"].pop("error")
    assert error == pytest.approx(expected["calibration"].pop("error"), abs=1e-6)
    del found["calibration"], expected["calibration"]
    assert found == expected


def test_nothing_counted_gives_nan_and_none_but_valid_json():
    evaluation = Evaluation(3)
    assert all(value.isnan() for value in evaluation.scalars().values())
    results = json.loads(json.dumps(evaluation.results("abc"), allow_nan=False))
    assert results["mIoU"] is None and results["objects"]["by_size"]["small"]["count"] == 0
    assert results["images"] == 0 and "calibration" not in results


def test_without_detail_only_the_confusion_matrix_is_counted():
    evaluation = Evaluation(3, in_detail=False)
    for part in batches(1):
        evaluation.update(**part)
    assert evaluation.scalars().keys() == {"mIoU", "pixel_accuracy"}
    assert (
        evaluation.boundary.pixels.sum() == evaluation.objects.pixels.sum() == evaluation.calibration.pixels.sum() == 0
    )
