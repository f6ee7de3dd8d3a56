"""docs/results.md and the script that writes its tables."""

import importlib.util
import re
from dataclasses import asdict, replace
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from segdcn.compare.plan import keep_plan, read_plan, write_json
from segdcn.compare.record import read_records, record_file
from segdcn.compare.variants import variants

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/evidence_tables"


def load(path):
    loader = SourceFileLoader(path.name, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.name, loader))
    loader.exec_module(module)
    return module


@pytest.fixture
def script():
    return load(SCRIPT)


@pytest.fixture
def finished(tmp_path, plan, records):
    """A comparison of which one run is not finished."""
    folder = tmp_path / "evidence/runs/compare/rigid-layers"
    keep_plan(folder, plan)
    for job, record in zip(list(plan.jobs())[:-1], records, strict=False):
        write_json(record_file(folder, job), asdict(record))
    return tmp_path / "evidence"


def test_the_page_has_the_tables_of_its_records(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--check"])
    assert script.main() == 0, capsys.readouterr().out


def test_records_are_kept_and_their_tables_written(script, finished, tmp_path, monkeypatch):
    page = tmp_path / "results.md"
    page.write_text(
        "Before\n\n<!-- table rigid mIoU -->\n<!-- end -->\n\n<!-- table camvid mIoU -->\nold\n<!-- end -->\n"
    )
    monkeypatch.setattr(script, "PAGE", page)
    monkeypatch.setattr(script, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", [str(SCRIPT), str(finished)])
    assert script.main() == 0
    written = page.read_text()
    assert "| 0 deformable | 62.00 ± 2.00 | 60.00 | 62.00 | 64.00 |" in written
    assert "| 3 deformable | 65.50 ± 0.71 | 65.00 | 66.00 | - |" in written
    assert "8 runs, 2026-11-23, A CPU, 2 threads" in written
    assert "Not run yet." in written and "old" not in written

    monkeypatch.setattr("sys.argv", [str(SCRIPT), "--check"])
    assert script.main() == 0
    page.write_text(written.replace("62.00 ± 2.00", "92.00 ± 2.00"))
    assert script.main() == 1


def test_what_is_kept_names_no_folder_of_this_machine(script, plan, records, tmp_path, monkeypatch):
    folder = tmp_path / "evidence"
    settings = {name: {**values, "data.root": f"{folder}/data/rigid"} for name, values in plan.settings.items()}
    plan = replace(plan, settings=settings)
    job, record = next(plan.jobs()), records[0]
    results = {**record.results, "run_folder": f"{folder}/runs/x"}
    record = replace(record, facts={**record.facts, "settings_sha256": plan.settings_hash(job)}, results=results)
    keep_plan(folder / "runs/compare/rigid-layers", plan)
    write_json(record_file(folder / "runs/compare/rigid-layers", job), asdict(record))
    monkeypatch.setattr(script, "KEPT", tmp_path / "kept")
    script.keep(folder)
    kept = tmp_path / "kept/rigid-layers"
    assert all(str(tmp_path) not in path.read_text() for path in kept.iterdir())
    assert read_plan(kept).settings[job.variant.name]["data.root"] == "FOLDER/data/rigid"
    (read,) = read_records(kept, read_plan(kept))
    assert read.results["run_folder"] == "FOLDER/runs/x"


def test_a_folder_without_comparisons_is_refused(script, tmp_path):
    with pytest.raises(SystemExit, match=f"{tmp_path} has no comparison"):
        script.keep(tmp_path)


def test_what_a_network_is_wrong_about(monkeypatch):
    """Three of the four pixels of either object are found: of one all wrong, of the other two of three right."""
    script = load(SCRIPT.with_name("evidence_errors"))
    labels = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]], np.uint8)
    instances = np.array([[1, 1, 0, 2, 2], [1, 1, 0, 2, 2]], np.uint8)
    predicted = np.array([[2, 2, 0, 2, 2], [2, 0, 0, 1, 0]], np.uint8)
    monkeypatch.setattr(script.segdcn, "load", lambda checkpoint: SimpleNamespace(predict=lambda image: predicted))
    found = script.errors(Path("x.ckpt"), [script.Truth(np.zeros((2, 5, 3), np.uint8), labels, instances)], 3)
    assert found["objects"] == 0.5
    assert found["mIoU"] == pytest.approx((2 / 4 + 0 / 5 + 2 / 7) / 3)
    assert found["named"] == pytest.approx((2 / 4 + 3 / 4 + 3 / 4) / 3)


def test_labels_that_follow_the_output_stride_are_perfect(monkeypatch):
    script = load(SCRIPT.with_name("evidence_errors"))
    image = np.zeros((16, 32, 3), np.uint8)
    halves, fine = np.zeros((2, 16, 32), np.uint8)
    halves[:, 16:], fine[:, ::2] = 1, 1
    assert script.perfect([script.Truth(image, halves, halves)], 2) == 1
    assert script.perfect([script.Truth(image, fine, fine)], 2) < 0.5


def test_a_table_of_errors(script, finished, tmp_path, monkeypatch):
    runs = {"deform_layers=0": {"0": {"objects": 0.5, "mIoU": 0.6, "named": 0.7}}}
    write_json(finished / "runs/compare/rigid-layers/errors.json", {"perfect": 0.9, "runs": runs})
    monkeypatch.setattr(script, "KEPT", tmp_path / "kept")
    script.keep(finished)
    table = script.block("rigid", "errors")
    assert "| 0 deformable | 50.00 | 60.00 | 70.00 |" in table and "| 100.00 | 90.00 | 90.00 |" in table
    assert script.block("bent", "errors").strip() == "Not run yet."


def test_every_row_is_of_a_variant_that_is_run(script):
    """The names are those that `segdcn compare` makes of what scripts/evidence varies."""
    text = SCRIPT.with_name("evidence").read_text().replace("\\\n", " ")
    varied = dict(re.findall(r"(?:compare|--name) ([^-\s]\S*) .*--vary (\S+)", text))
    for made in [name for name in varied if "$1" in name]:
        varied |= {made.strip('"').replace("$1", which): varied[made] for which in ("rigid", "bent")}
    for comparison, variant in (row for rows in script.ROWS.values() for row in rows.values()):
        assert variant in [one.name for one in variants([varied[comparison]])], comparison


def test_a_table_nobody_knows_is_refused(script):
    with pytest.raises(SystemExit, match="a table rigid colours, which is not known"):
        script.block("rigid", "colours")
