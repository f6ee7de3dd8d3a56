"""Batches keep the contract, and a run repeats whatever serves it."""

import ctypes
import multiprocessing
import pickle
import platform
import resource

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from segdcn.data import VOC, Shapes
from segdcn.data.loading import start_worker
from segdcn.errors import UserValueError

SMALL = {"batch_size": 4, "crop_size": 64, "num_workers": 0}


def epochs(data, numbers=(0, 1)):
    """The batches of some epochs from one loader, as Lightning would ask for them."""
    loader = data.train_dataloader()
    result = []
    for number in numbers:
        loader.sampler.set_epoch(number)
        result += list(loader)
    return result


def same(left, right):
    return len(left) == len(right) and all(
        a["name"] == b["name"] and torch.equal(a["image"], b["image"]) and torch.equal(a["labels"], b["labels"])
        for a, b in zip(left, right, strict=True)
    )


def test_a_training_batch_has_the_shapes_and_types_of_the_contract(shapes_root):
    data = Shapes(str(shapes_root), batch_size=4, crop_size=(32, 96), num_workers=0)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 32, 96) and batch["image"].dtype == torch.float32
    assert batch["labels"].shape == (4, 32, 96) and batch["labels"].dtype == torch.int64
    assert len(batch["name"]) == 4 and all(isinstance(name, str) for name in batch["name"])


def test_classes_colours_and_normalisation_are_known_without_setup():
    data = VOC("nowhere")
    assert (data.num_classes, data.ignore_index, data.class_names[15]) == (21, 255, "person")
    assert len(data.palette) == 21 and len(data.mean) == len(data.std) == 3


def test_everything_is_read_at_the_size_asked_for(shapes_root):
    settings = {**SMALL, "crop_size": 32, "num_workers": 0}
    full, small = (Shapes(str(shapes_root), resize=size, **settings).eval_dataset("val") for size in (None, (37, 23)))
    small.with_instances = full.with_instances = True
    before, after = full[0], small[0]
    assert after["image"].shape == (3, 37, 23) and after["labels"].shape == after["instances"].shape == (37, 23)
    # Labels and instances are ones that were there, at the nearest pixel; nothing is mixed.
    height, width = before["labels"].shape
    rows, columns = ((torch.arange(n) + 0.5) * size / n for n, size in ((37, height), (23, width)))
    nearest = (rows.long()[:, None], columns.long()[None])
    assert torch.equal(after["labels"], before["labels"][nearest])
    assert torch.equal(after["instances"], before["instances"][nearest])
    # And pictures are means: of the same colour all in all.
    assert abs(after["image"].mean() - before["image"].mean()) < 0.02


@pytest.mark.parametrize("num_workers", [1, 2])
def test_two_epochs_are_the_same_on_any_number_of_workers(shapes_root, num_workers):
    """Persistent workers outlive an epoch; the key tells them which one a sample is for."""
    settings = {"batch_size": 4, "crop_size": 64, "colour_jitter": 0.3, "blur": 0.5, "rotation": 20}
    settings["cat_max_ratio"] = 0.75
    alone = epochs(Shapes(str(shapes_root), num_workers=0, **settings))
    assert same(alone, epochs(Shapes(str(shapes_root), num_workers=num_workers, **settings)))


def test_each_epoch_has_its_own_order_and_augmentation(shapes_root):
    data = Shapes(str(shapes_root), **SMALL)
    first, second = epochs(data, [0]), epochs(data, [1])
    assert [batch["name"] for batch in first] != [batch["name"] for batch in second]
    dataset = data.train_dataset()
    assert not torch.equal(dataset[(0, 3)]["image"], dataset[(1, 3)]["image"])
    assert same(first, epochs(data, [0]))


def test_another_seed_gives_another_order(shapes_root):
    names = [[batch["name"] for batch in epochs(Shapes(str(shapes_root), seed=seed, **SMALL), [0])] for seed in (0, 1)]
    assert names[0] != names[1]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_serving_an_epoch_leaves_the_global_random_state_alone(shapes_root, num_workers):
    """Or dropout would draw other numbers with other data settings."""
    data = Shapes(str(shapes_root), batch_size=4, crop_size=64, num_workers=num_workers)
    before = torch.get_rng_state()
    epochs(data)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*have no `validation_step`")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_run_sees_the_samples_of_the_epochs_it_missed(shapes_root, tmp_path, num_workers):
    """Lightning starts the workers of a resumed run before it names the epoch."""

    class Recorder(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def training_step(self, batch, batch_idx):
            self.seen.append((batch["name"], batch["image"].sum().item()))
            return self.layer.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def run(epochs, ckpt_path=None):
        quiet = {"logger": False, "limit_val_batches": 0, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path, **quiet
        )
        module = Recorder()
        data = Shapes(str(shapes_root), batch_size=8, crop_size=64, num_workers=num_workers)
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module.seen

    whole = run(3)
    assert run(1) == whole[:3]
    assert run(3, tmp_path / "1.ckpt") == whole[3:]


def test_the_incomplete_last_batch_of_an_epoch_is_left_out(shapes_root):
    data = Shapes(str(shapes_root), batch_size=7, crop_size=64, num_workers=0)
    assert [len(batch["name"]) for batch in data.train_dataloader()] == [7, 7, 7]


def test_evaluation_gives_every_image_in_order_and_size(tiny_voc):
    data = VOC(str(tiny_voc), num_workers=0)
    batches = list(data.val_dataloader())
    assert [batch["name"] for batch in batches] == [["a"], ["b"]]
    assert [tuple(batch["labels"].shape) for batch in batches] == [(1, 32, 64), (1, 64, 32)]
    assert (batches[0]["labels"][0, :30, :40] == data.eval_dataset("val")[0]["labels"]).all()
    assert (batches[0]["labels"][0, 30:] == 255).all() and (batches[0]["image"][0, :, :, 40:] == 0).all()


def test_an_evaluation_dataset_gives_samples_at_their_original_size(tiny_voc):
    data = VOC(str(tiny_voc))
    item = data.eval_dataset("val")[1]
    assert item["name"] == "b" and item["image"].shape == (3, 50, 20) and item["labels"].shape == (50, 20)
    image, _ = data.eval_dataset("val").read(1)
    mean, std = np.array(data.mean), np.array(data.std)
    undone = (item["image"].numpy().transpose(1, 2, 0) * std + mean) * 255
    assert abs(undone - image).max() < 1e-3


def test_limits_take_the_first_samples(tiny_voc):
    data = VOC(str(tiny_voc), train_limit=2, val_split="train", eval_limit=1)
    assert [sample.name for sample in data.train_dataset().samples] == ["a", "b"]
    assert [sample.name for sample in data.eval_dataset(data.val_split).samples] == ["a"]


def test_workers_start_after_opencv_has_used_its_threads(shapes_root):
    """A forked child of a process whose OpenCV has threads hangs on its first OpenCV call."""
    cv2.setNumThreads(4)
    for _ in range(5):
        cv2.GaussianBlur(np.zeros((1000, 1000, 3), np.float32), (0, 0), 3)
    data = Shapes(str(shapes_root), batch_size=4, crop_size=64, num_workers=1)
    assert len(list(data.train_dataloader())) == 6


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, PR_SET_THP_DISABLE = -1, -3, 41


def count_page_faults(prepare, answer):
    """Touch 12 arrays of 3 MB and drop them, ten times over.

    First forget what malloc learnt from what the process did before, and take pages of the usual size alone.
    """
    system = ctypes.CDLL(None)
    system.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        system.mallopt(setting, 128 << 10)  # where it begins
    prepare(0)
    for round in range(12):
        if round == 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        batch = [np.ones(3 << 20, np.uint8) for _ in range(12)]
        del batch
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc, whose malloc is told what to keep")
def test_a_worker_keeps_the_memory_of_a_batch_for_the_next():
    """Ten rounds touch 92,160 pages of 4 KiB; kept, hardly any of them is new."""
    context = multiprocessing.get_context("fork")
    faults = []
    for prepare in (lambda worker_id: None, start_worker):
        answer = context.SimpleQueue()
        process = context.Process(target=count_page_faults, args=(prepare, answer))
        process.start()
        faults.append(answer.get())
        process.join()
    assert faults[1] < 500 and faults[1] < faults[0] / 10, faults


def test_a_data_module_is_pickled_without_its_trainer(shapes_root):
    """Workers that are spawned instead of forked get a pickled copy."""
    data = Shapes(str(shapes_root), **SMALL)
    data.trainer = lambda: None  # cannot be pickled
    copy = pickle.loads(pickle.dumps(data.train_dataset()))
    assert copy.data.trainer is None and len(copy) == 24


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"crop_size": 0}, r"data.crop_size is \[0, 0\]; expected positive multiples of data.size_divisor = 32"),
        ({"crop_size": (64, 100)}, r"data.crop_size is \[64, 100\]; expected positive multiples"),
        ({"resize": (0, 10)}, r"data.resize is \[0, 10\]; expected \[height, width\]"),
        ({"batch_size": 0}, "data.batch_size is 0; expected 1 or more"),
        ({"num_workers": -1}, "data.num_workers is -1; expected 0 or more"),
        ({"train_limit": 0}, "data.train_limit is 0; expected 1 or more, or null"),
        ({"scale_range": (2, 1)}, r"data.scale_range is \[2, 1\]; expected \[smallest, largest\]"),
        ({"flip_prob": 1.5}, "data.flip_prob is 1.5; expected a number from 0 to 1"),
        ({"cat_max_ratio": 0}, "data.cat_max_ratio is 0; expected a share above 0"),
        ({"rotation": -5}, "data.rotation is -5; expected degrees from 0 to 180"),
        ({"blur": 2}, "data.blur is 2; expected a number from 0 to 1"),
        ({"std": (1, 0, 1)}, r"data.std is \[1, 0, 1\]; expected positive"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_what_was_expected(setting, message):
    with pytest.raises(UserValueError, match=message):
        VOC("nowhere", **setting)
