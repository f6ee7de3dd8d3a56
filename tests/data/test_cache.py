"""A cache changes nothing but the time: same pixels, never old ones, whoever builds it and however often."""

import importlib
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from segdcn.data import VOC, Folder
from segdcn.data import cache as cache_module
from segdcn.data.cache import HEAD, SampleCache, folder_name
from segdcn.errors import InvalidDataError, UserValueError

SETTINGS = {"batch_size": 3, "crop_size": 32, "num_workers": 0, "rotation": 20, "colour_jitter": 0.3, "blur": 0.5}


@pytest.fixture(params=["disk", "ram"])
def kind(request):
    return request.param


@pytest.fixture(autouse=True)
def own_places(tmp_path_factory, monkeypatch):
    """Caches of these tests lie apart from those of real runs."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setattr(cache_module, "default_parent", lambda kind: folder / kind)
    return folder


def voc(root, kind=None, **settings):
    data = VOC(str(root), cache=kind, **SETTINGS | settings)
    data.prepare_data()
    return data


def never(sample):
    raise AssertionError(f"{sample.name} was decoded again")


def entries(data):
    return sorted(path for path in data.cached.folder.iterdir() if path.name != "lock")


def same(left, right):
    return all(torch.equal(left[name], right[name]) for name in ("image", "labels"))


def test_cached_samples_are_those_decoded_each_time_bit_for_bit(tiny_voc, kind):
    plain, cached = voc(tiny_voc), voc(tiny_voc, kind)
    cached.decode = never
    for key in [(epoch, index) for epoch in range(4) for index in range(3)]:
        assert same(plain.train_dataset()[key], cached.train_dataset()[key])
    for index in range(2):
        assert same(plain.eval_dataset("val")[index], cached.eval_dataset("val")[index])


def test_a_cache_is_filled_once(tiny_voc, kind):
    data = voc(tiny_voc, kind)
    assert len(entries(data)) == 3  # a and b are in both splits
    again = VOC(str(tiny_voc), cache=kind, **SETTINGS)
    again.open_cache()
    again.decode = never
    again.prepare_data()
    assert len(entries(again)) == 3


@pytest.mark.parametrize("fn", [TrainerFn.VALIDATING, TrainerFn.TESTING])
def test_only_fit_fills_a_cache(tiny_voc, fn):
    """Other verbs read a sample once."""
    data = VOC(str(tiny_voc), cache="disk", **SETTINGS)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=fn))
    data.prepare_data()
    assert data.cached is None


def test_without_the_setting_nothing_is_written(tiny_voc, own_places):
    assert voc(tiny_voc).cached is None
    assert not list(own_places.iterdir())


@pytest.mark.parametrize("file", ["JPEGImages/b.jpg", "SegmentationClass/b.png"])
def test_a_file_that_was_replaced_is_read_anew(tiny_voc, kind, file):
    data = voc(tiny_voc, kind)
    with Image.open(tiny_voc / file) as picture:
        other = Image.fromarray(np.asarray(picture)[::-1])
    os.utime(tiny_voc / file, ns=(1, 1))
    assert data.cached.open(data.samples("train")[1]) is None  # the time alone tells
    other.save(tiny_voc / file)
    expected = VOC(str(tiny_voc), **SETTINGS).train_dataset()[(0, 1)]
    assert same(data.train_dataset()[(0, 1)], expected)  # also in the midst of a run
    again = voc(tiny_voc, kind)
    again.decode = never
    assert same(again.train_dataset()[(0, 1)], expected)
    assert len(entries(again)) == 3


@pytest.mark.parametrize("kept", [0, 5, HEAD, 0.5])
def test_an_entry_that_is_cut_short_is_made_again(tiny_voc, kind, kept):
    data = voc(tiny_voc, kind)
    for path in entries(data):
        content = path.read_bytes()
        path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    expected = voc(tiny_voc).train_dataset()[(0, 0)]
    assert same(data.train_dataset()[(0, 0)], expected)
    again = voc(tiny_voc, kind)
    again.decode = never
    assert same(again.train_dataset()[(0, 0)], expected)


def test_other_labels_from_the_same_files_have_a_cache_of_their_own(tmp_path):
    def folder(**settings):
        classes = {"a": [0, 0, 0], "b": [9, 9, 9]}
        return Folder("nowhere", classes, cache="disk", cache_dir=str(tmp_path), **settings)

    settings = [{}, {"id_map": {0: 1, 1: 0}}, {"ignore": [7]}, {"resize": (9, 9)}]
    assert len({folder_name(folder(**setting)) for setting in settings}) == 4
    assert folder_name(folder(crop_size=64, seed=5)) == folder_name(folder())


class Tabled(VOC):
    """A data set with a table of its own."""

    def __init__(self, one):
        super().__init__("nowhere")
        self.table = np.arange(2000) == one


class Bordered(VOC):
    """A data set that stores a setting of its own before the base class is set up."""

    def __init__(self, root, border):
        self.border = border
        super().__init__(root)


def test_a_setting_of_its_own_counts_wherever_it_is_set(tmp_path):
    left, right = (Bordered(str(tmp_path), border) for border in ("ignore", "object"))
    assert left.own_settings() == {"border": "ignore"} and folder_name(left) != folder_name(right)


def test_all_of_a_table_counts():
    """Printed, a long array shows only its ends."""
    assert folder_name(Tabled(1000)) != folder_name(Tabled(1001))
    assert folder_name(Tabled(1000)) == folder_name(Tabled(1000))


def test_a_data_set_whose_code_changed_has_another_cache(tmp_path, monkeypatch):
    """Who mends read_labels must not be served what it read before."""
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for result in (1, 2, 2):
        module = f"mine{len(names)}"
        (tmp_path / f"{module}.py").write_text(
            f"from segdcn.data import VOC\nclass Mine(VOC):\n    def read_labels(self, sample): return {result}\n"
        )
        names.append(folder_name(importlib.import_module(module).Mine("nowhere")))
    assert names[0] != names[1] and names[1] == names[2]


def fill_slowly(root, parent, barrier, seen):
    data = VOC(str(root), **SETTINGS)
    cache = SampleCache("disk", "shared", parent)

    def decode(sample):
        seen.put(sample.name)
        return data.decode(sample)

    barrier.wait()
    cache.fill(data.samples("train"), decode, threads=2, quiet=True)


def test_processes_that_build_at_once_leave_whole_entries(tiny_voc, tmp_path):
    images, labels = tiny_voc / "JPEGImages", tiny_voc / "SegmentationClass"
    names = [f"n{i}" for i in range(30)]
    for name in names:
        shutil.copy(images / "a.jpg", images / f"{name}.jpg")
        shutil.copy(labels / "a.png", labels / f"{name}.png")
    (tiny_voc / "ImageSets/Segmentation/train.txt").write_text("\n".join(names))
    context = multiprocessing.get_context("fork")
    barrier, seen = context.Barrier(3), context.Queue()
    builders = [context.Process(target=fill_slowly, args=(tiny_voc, tmp_path, barrier, seen)) for _ in range(3)]
    for builder in builders:
        builder.start()
    decoded = set()
    while any(builder.is_alive() for builder in builders) or not seen.empty():
        if not seen.empty():
            decoded.add(seen.get())
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    data = VOC(str(tiny_voc), **SETTINGS)
    cache = SampleCache("disk", "shared", tmp_path)
    assert decoded == set(names) and len(list(cache.folder.iterdir())) == 30
    for sample in data.samples("train"):
        found, expected = cache.open(sample), data.decode(sample)
        assert np.array_equal(found.image, expected.image) and np.array_equal(found.labels, expected.labels)


def test_what_a_killed_builder_left_is_removed_when_it_is_old(tiny_voc, tmp_path):
    cache = SampleCache("disk", "set", tmp_path)
    old, new = cache.folder / "x.part", cache.folder / "y.part"
    old.touch(), new.touch()
    os.utime(old, (0, 0))
    data = VOC(str(tiny_voc), **SETTINGS)
    cache.fill(data.samples("train"), data.decode, quiet=True)
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_serve_what_one_process_serves(tiny_voc, kind, num_workers):
    batches = [list(voc(tiny_voc, kind, num_workers=n).train_dataloader()) for n in (0, num_workers)]
    assert len(batches[0]) == 1 and all(same(a, b) for a, b in zip(*batches, strict=True))


def test_a_pickled_copy_reads_and_holds_nothing(tiny_voc, kind):
    """Workers that are spawned get one, and must not remove the cache when they end."""
    data = voc(tiny_voc, kind)
    copy = pickle.loads(pickle.dumps(data.train_dataset()))
    copy.data.decode = never
    assert same(copy[(0, 0)], data.train_dataset()[(0, 0)])
    del copy
    assert len(entries(data)) == 3


@pytest.mark.slow
def test_spawned_workers_read_the_cache_and_leave_it(tiny_voc, kind):
    data = voc(tiny_voc, kind)
    expected = [data.train_dataset()[index] for index in range(3)]
    loader = DataLoader(data.train_dataset(), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert all(same(a, b) for a, b in zip(loader, expected, strict=True))
    assert len(entries(data)) == 3


def test_too_little_room_is_refused_with_need_and_have(tiny_voc, kind, monkeypatch):
    """12 + 4 + 8 MB would be needed by pictures of 2000x1500, 1000x1000 and 2000x1000."""
    for name, size in {"a": (2000, 1500), "b": (1000, 1000), "c": (2000, 1000)}.items():
        Image.new("RGB", size).save(tiny_voc / "JPEGImages" / f"{name}.jpg")
        Image.new("L", size).save(tiny_voc / "SegmentationClass" / f"{name}.png")
    usage = shutil.disk_usage(tiny_voc)
    data = VOC(str(tiny_voc), cache=kind, **SETTINGS)
    if kind == "ram":
        monkeypatch.setattr(cache_module, "available_memory", lambda: 24_000_000)
    else:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=24_000_000))
    for refused in (lambda: data.setup("fit"), data.prepare_data):
        with pytest.raises(UserValueError) as caught:
            refused()
        text = str(caught.value)
        assert text.startswith(f"data.cache {kind} needs 23 MiB for 3 samples in {data.cached.folder}, but may take")
        assert ("80% of what is free" if kind == "ram" else "95% of what is free") in text
        assert ("set --data.cache disk" if kind == "ram" else "set --data.cache_dir") in text
    assert not entries(data)


def test_room_is_asked_for_at_the_size_that_is_kept(tiny_voc, kind, monkeypatch):
    """A picture of 4 MB, kept as 16x16 pixels."""
    Image.new("RGB", (1000, 1000)).save(tiny_voc / "JPEGImages" / "a.jpg")
    Image.new("L", (1000, 1000)).save(tiny_voc / "SegmentationClass" / "a.png")
    usage = shutil.disk_usage(tiny_voc)
    monkeypatch.setattr(cache_module, "available_memory", lambda: 100_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    data = voc(tiny_voc, kind, resize=(16, 16))
    assert [path.stat().st_size for path in entries(data)] == [HEAD + 4 * 256] * 3


def test_caches_on_disk_that_nobody_has_opened_for_long_are_removed_and_nothing_else(tiny_voc, tmp_path):
    """A folder with somebody's file in it stays, and so does one of another name."""
    places = {name: tmp_path / "disk" / name for name in ("VOC-" + "0" * 16, "VOC-" + "1" * 16, "VOC-" + "2" * 16, "x")}
    old, new, foreign, other = places.values()
    for place in places.values():
        place.mkdir(parents=True)
        (place / ("f" * 32)).touch()
    (foreign / "thesis.txt").touch()
    for place in (old, foreign, other):
        os.utime(place, (0, 0))
    data = voc(tiny_voc, "disk", cache_dir=str(tmp_path / "disk"))
    assert not old.exists() and new.is_dir() and foreign.is_dir() and other.is_dir()
    os.utime(data.cached.folder, (0, 0))
    again = voc(tiny_voc, "disk", cache_dir=str(tmp_path / "disk"))  # opening it is using it
    voc(tiny_voc, "disk", cache_dir=str(tmp_path / "disk"), resize=(9, 9))
    assert len(entries(again)) == 3


def test_a_damaged_file_is_named_while_the_cache_is_filled(tiny_voc, kind):
    (tiny_voc / "JPEGImages/b.jpg").write_bytes(b"no picture")
    with pytest.raises(InvalidDataError, match=r"b\.jpg cannot be read as a picture"):
        voc(tiny_voc, kind)


def test_a_disk_that_fills_up_is_named(tiny_voc, kind, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    data = VOC(str(tiny_voc), cache=kind, **SETTINGS)
    data.open_cache()
    monkeypatch.setattr(cache_module.tempfile, "NamedTemporaryFile", full)
    with pytest.raises(UserValueError, match=r"cannot be written \(No space left on device\)"):
        data.prepare_data()


def test_a_folder_that_cannot_be_written_is_refused(tiny_voc, tmp_path):
    (tmp_path / "file").touch()
    data = VOC(str(tiny_voc), cache="disk", cache_dir=str(tmp_path / "file"), **SETTINGS)
    with pytest.raises(UserValueError, match=r"file/VOC-\w+ cannot be written \(.*\); set --data.cache_dir"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache": "rom"}, "data.cache is 'rom'; expected ram, disk or null"),
        ({"cache": "ram", "cache_dir": "x"}, "data.cache_dir is for data.cache disk"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserValueError, match=message):
        VOC("nowhere", **settings)


def test_caches_lie_outside_the_data_sets_tree(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_module.default_parent("disk") == Path("/somewhere/segdcn")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_module.default_parent("disk") == Path.home() / ".cache" / "segdcn"
    assert cache_module.default_parent("ram") == Path(f"/dev/shm/segdcn-{os.getuid()}")
