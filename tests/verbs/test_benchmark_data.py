"""`segdcn benchmark data` reads the same samples from everywhere, and leaves nothing behind."""

import json

import pytest

from segdcn.cli import main
from segdcn.data import cache, shapes
from segdcn.errors import MissingFileError, UserValueError
from segdcn.verbs.benchmark_data import benchmark_data


@pytest.fixture
def description(tmp_path, monkeypatch):
    """A YAML of a data set of a few small pictures; caches are made below the test's own folder."""
    root = tmp_path / "shapes"
    shapes.make(root, train=4, val=1, size=64)
    monkeypatch.setattr(cache, "default_parent", lambda kind: tmp_path / "caches" / kind)
    path = tmp_path / "shapes.yaml"
    path.write_text(f"class_path: segdcn.data.Shapes\ninit_args: {{root: {root}, batch_size: 3, crop_size: 32}}\n")
    return path


@pytest.mark.parametrize("workers", [0, 1])
def test_files_and_both_caches_are_timed(description, workers, tmp_path, capsys):
    file = tmp_path / "figures.json"
    benchmark_data(str(description), workers=workers, samples=8, rounds=2, json=str(file))
    written = json.loads(file.read_text())
    assert "9 samples" in written["machine"] and f"{workers} workers" in written["machine"]  # whole batches of 3
    files, ram, disk = written["rows"]
    assert [row["source"] for row in (files, ram, disk)] == ["files", "ram", "disk"]
    assert files["factor"] == 1 and files["bytes"] is None
    assert ram["bytes"] == disk["bytes"] == 4 * (512 + 4 * 64 * 64)
    assert all(row["samples_per_second"] > 0 for row in written["rows"])
    shown = capsys.readouterr().out
    assert "samples/s" in shown and max(map(len, shown.splitlines())) <= 80
    assert [path.name for path in (tmp_path / "caches").rglob("*") if path.is_file()] == []


def test_samples_come_from_the_caches_that_were_filled(description, tmp_path, monkeypatch):
    """Each image is decoded once for each cache, and in every round when read from files."""
    decoded = []
    original = shapes.Shapes.decode
    monkeypatch.setattr(shapes.Shapes, "decode", lambda self, sample: decoded.append(1) or original(self, sample))
    benchmark_data(str(description), workers=0, samples=6, rounds=2)
    assert len(decoded) == 2 * 4 + 3 * 6


def test_the_disk_cache_is_made_and_removed_where_it_is_asked_for(description, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(cache.SampleCache, "fill", lambda self, *_, **__: made.append(self.folder))
    benchmark_data(str(description), caches=["disk"], workers=0, samples=1, rounds=2, cache_dir=str(tmp_path / "mine"))
    assert made[0].is_relative_to(tmp_path / "mine") and not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("settings", [{"rounds": 1}, {"samples": 0}, {"images": 0}, {"workers": -1}])
def test_numbers_that_do_not_fit_are_refused(description, settings):
    with pytest.raises(UserValueError, match="at least 2 rounds, 1 sample, 1 image and 0 workers are needed"):
        benchmark_data(str(description), **settings)


def test_what_is_not_there_is_refused_in_one_line(description, tmp_path, capsys):
    with pytest.raises(MissingFileError, match="data.root .*nowhere is not a folder"):
        benchmark_data(str(description), root=str(tmp_path / "nowhere"))
    assert main(["benchmark", "data", "--data", "nowhere.yaml"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["benchmark", "data", "--data", str(description), "--json", "/proc/x/y.json"]) == 2
    assert "json is" in capsys.readouterr().err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as done:
        main(["benchmark", "data", "--help"])
    assert done.value.code == 0
    assert "segdcn benchmark data --data configs/data/cityscapes.yaml" in capsys.readouterr().out
