"""A comparison of three variants and three seeds that nobody trained."""

import pytest

from segdcn.compare.plan import Plan, Start
from segdcn.compare.record import Record
from segdcn.compare.variants import variants

MIOU = {  # by variant and seed
    "deform_layers=0": [0.60, 0.62, 0.64],
    "deform_layers=1": [0.61, 0.63, 0.62],
    "deform_layers=3": [0.65, 0.66, 0.70],
}


def planned(**changes):
    listed = variants(["deform_layers=0,1,3"])
    return Plan(
        **{
            "name": "tried",
            "fit": ["--config", "base.yaml", "--model.lr=0.1"],
            "variants": listed,
            "seeds": [0, 1, 2],
            "checkpoint": "last",
            "settings": {variant.name: {**variant.values, "model.lr": 0.1} for variant in listed},
            "starts": {variant.name: Start(f"all of {variant.name}", "same", False) for variant in listed},
            "data": {variant.name: "these" for variant in listed},
            **changes,
        }
    )


def recorded(plan, job, **facts):
    miou, layers = MIOU[job.variant.name][job.seed], job.variant.values["model.deform_layers"]
    return Record(
        variant=job.variant.name,
        seed=job.seed,
        facts={
            "date": "2026-11-23T10:00:00+01:00",
            "segdcn": "0.1.0",
            "commit": "0123456789ab",
            "torch": "2.14.1",
            "machine": "A CPU, 2 threads",
            "device": "cpu",
            "settings_sha256": plan.settings_hash(job),
            "checkpoint": f"runs/{job.name}/then/checkpoints/last.ckpt",
            "validation": f"validations/{job.name}/then-validate",
            "epochs": 4,
            "steps": 600,
            **facts,
        },
        cost={"seconds_per_step": 0.2 + 0.01 * layers, "memory": 1 << 30, "parameters": 12_000_000 + layers},
        results={
            "images": 24,
            "data": {"class": "segdcn.data.Shapes", "split": "val"},
            "mIoU": miou,
            "pixel_accuracy": 0.9,
            "IoU": {"background": 0.9, "disc": miou, "star": None},
            "boundary": {"distance": 0.02, "mIoU": miou / 2},
            "objects": {
                "are": "instances",
                "size_limits": [1024, 9216],
                "by_size": {"small": {"mIoU": miou - 0.1}, "medium": {"mIoU": None}, "large": {"mIoU": miou + 0.1}},
            },
        },
        offsets={
            f"encoder.layer4.{number}.conv2": {
                "mean": 0.5,
                "p95": 1.25,
                "outside": 0.125,
                "effective_dilation": {"small": 2.0 + 0.1 * job.seed, "large": 3.0},
            }
            for number in range(layers)
        },
    )


@pytest.fixture
def make_plan():
    """Make the plan, with changes."""
    return planned


@pytest.fixture
def make_record():
    """Make the record of a run."""
    return recorded


@pytest.fixture
def plan():
    return planned()


@pytest.fixture
def records(plan):
    return [recorded(plan, job) for job in plan.jobs()]
