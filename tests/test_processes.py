"""Two processes give what one gives: the same matrix, the same gradients."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from segdcn import cli
from segdcn.data import Shapes
from segdcn.data.loading import EpochSampler
from segdcn.task import SegmentationTask

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    made = ["data", "make-shapes", "--output", str(folder / "set"), "--train=8", "--val=5", "--size=32"]
    assert cli.main(made) == 0
    (folder / "shapes.yaml").write_text(
        f"class_path: segdcn.data.Shapes\n"
        f"init_args: {{root: {folder / 'set'}, batch_size: 4, num_workers: 0, crop_size: 32}}\n"
    )
    (folder / "model.yaml").write_text("architecture: deeplab\nencoder: resnet18\ndeform_layers: 1\nlr: 0.05\n")
    return folder


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}  # with as many threads everywhere the numbers are the same


def command_of(verb, name, *more):
    files = [f"--config={ROOT / 'configs/base.yaml'}", "--data=shapes.yaml", "--model=model.yaml"]
    mine = ["--wandb=off", "--pictures.count=0", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"]
    return [sys.executable, "-m", "segdcn", verb, *files, *mine, f"--name={name}", *more]


def run(folder, verb, name, *more):
    command = command_of(verb, name, *more)
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    path = max((folder / "runs" / name).glob(f"*{'-' + verb if verb != 'fit' else ''}/metrics.csv"))
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row.get("val/mIoU")]


TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


@pytest.mark.slow
def test_validation_on_two_processes_counts_every_sample_once(workplace):
    """Five samples on two processes: DistributedSampler would count one of them twice."""
    trained = run(workplace, "fit", "one", "--trainer.max_epochs=1")
    checkpoint = "--ckpt_path=last"
    (alone,) = run(workplace, "validate", "one", checkpoint)
    (shared,) = run(workplace, "validate", "one", checkpoint, *TWO)
    assert alone == shared and alone["val/mIoU"] == trained[-1]["val/mIoU"]


@pytest.mark.slow
def test_training_goes_on_with_another_number_of_processes(workplace):
    first = run(workplace, "fit", "grows", "--trainer.max_epochs=1", "--data.init_args.batch_size=4")
    second = run(
        workplace, "fit", "grows", "--trainer.max_epochs=2", "--data.init_args.batch_size=2", "--ckpt_path=last", *TWO
    )
    assert len(first) == 1 and len(second) == 2 and second[0] == first[0]
    third = run(workplace, "fit", "grows", "--trainer.max_epochs=3", "--ckpt_path=last")
    assert len(third) == 3 and third[:2] == second


@pytest.mark.slow
def test_the_first_process_shows_the_images_of_all(workplace):
    """Of five images three are shown; each process sees the predictions of some."""
    flags = ["--wandb=offline", "--pictures.count=3", "--pictures.max_share=1", "--data.init_args.batch_size=2"]
    run(workplace, "fit", "shown", "--trainer.max_epochs=1", *flags, *TWO)
    (media,) = (workplace / "runs" / "shown").glob("*/wandb/offline-run-*/files/media/images")
    counts = {what: len(list(media.glob(f"{what}_*.jpg"))) for what in ("val/samples", "offsets/sampling")}
    assert counts == {"val/samples": 3, "offsets/sampling": 3}
    assert len(list(media.glob("mask/val/samples_*.png"))) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_in_one_process_ends_all_with_its_line(workplace, tmp_path, rank):
    """The second sample that this process reads is damaged."""
    shutil.copytree(workplace, tmp_path / "place", ignore=shutil.ignore_patterns("runs"))
    description = tmp_path / "place" / "shapes.yaml"
    description.write_text(description.read_text().replace(str(workplace), str(tmp_path / "place")))
    (_, index) = list(EpochSampler(8, 0, rank=rank, processes=2))[1]
    (tmp_path / f"place/set/SegmentationClass/train_{index:05d}.png").write_bytes(b"")
    command = command_of("fit", "fails", "--trainer.max_epochs=1", "--data.batch_size=1", *TWO)
    done = subprocess.run(command, cwd=tmp_path / "place", env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode not in (0, 70), done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("segdcn: ")]
    assert sum(f"train_{index:05d}.png" in line for line in errors) == 1, done.stderr
    assert all("lost the other processes" in line for line in errors if f"train_{index:05d}.png" not in line)
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "place").rglob("traceback.txt"))


def gradients_of(rank: int, folder: str, root: str) -> None:
    """One of two processes: the averaged gradients of the first batch, with batch statistics frozen."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=2)
    task, batch = task_and_batch(root, rank, processes=2)
    network = nn.parallel.DistributedDataParallel(task.network)
    task.loss(network(batch["image"]), batch["labels"]).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in task.network.named_parameters()}, f"{folder}/gradients.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def task_and_batch(root: str, rank: int, processes: int) -> tuple[SegmentationTask, dict]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = SegmentationTask(7, architecture="deeplab", encoder="resnet18", deform_layers=1)
    for module in task.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    task.eval()  # every image by itself
    nn.init.normal_(task.network.encoder.layer4[1].conv2.offset_conv.weight, std=0.05)
    data = Shapes(root, batch_size=8 // processes, num_workers=0, crop_size=32, scale_range=(1, 1))
    dataset = data.train_dataset()
    keys = list(EpochSampler(8, 0, rank=rank, processes=processes))
    items = [dataset[key] for key in keys]
    return task, {name: torch.stack([item[name] for item in items]) for name in ("image", "labels")}


@pytest.mark.slow
def test_two_batches_of_four_give_the_gradients_of_one_of_eight(workplace, tmp_path):
    """Every pixel of Shapes counts, so the mean of the two means is the mean of all."""
    torch.multiprocessing.spawn(gradients_of, (str(tmp_path), str(workplace / "set")), nprocs=2)
    shared = torch.load(tmp_path / "gradients.pt", weights_only=True)
    threads = torch.get_num_threads()
    try:
        task, batch = task_and_batch(str(workplace / "set"), rank=0, processes=1)
    finally:
        torch.set_num_threads(threads)
    task.loss(task.network(batch["image"]), batch["labels"]).backward()
    for name, parameter in task.network.named_parameters():
        assert parameter.grad is not None
        scale = parameter.grad.abs().max().clamp_min(1e-6)
        assert ((shared[name] - parameter.grad).abs().max() / scale) < 1e-4, name
