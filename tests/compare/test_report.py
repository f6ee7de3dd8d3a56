import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from segdcn.compare import report
from segdcn.compare.examples import Example
from segdcn.compare.pages import Section, page, write
from segdcn.compare.plan import Start
from segdcn.compare.tables import Scores, Table, cost_table, difference_table, measure_table, miou_table, offset_table

CLASSES = ["background", "disc", "star"]
PALETTE = [[0, 0, 0], [200, 0, 0], [0, 0, 200]]


def sections(plan, records, failed=()):
    labels = np.zeros((8, 12), np.uint8)
    guesses = {variant.name: np.full((8, 12), number, np.uint8) for number, variant in enumerate(plan.variants)}
    example = Example("street", 0.5, np.zeros((8, 12, 3), np.uint8), labels, guesses)
    return report.sections(plan, records, dict(failed), [example], PALETTE, CLASSES)


def test_miou_is_told_with_its_spread_and_every_seed(plan, records):
    table = miou_table(Scores(plan, records))
    assert table.head == ["variant", "mean ± std", "seed 0", "seed 1", "seed 2"]
    assert table.rows[0] == ["deform_layers=0", "62.00 ± 2.00", "60.00", "62.00", "64.00"]


def test_differences_are_paired_by_seed(plan, records):
    """+5, +4 and +6 points: mean 5, standard deviation 1, standard error 1 / sqrt(3), of which the interval is 4.30."""
    table = difference_table(Scores(plan, records))
    assert table.rows[1] == ["deform_layers=3", "+5.00 ± 0.58", "+2.52 to +7.48", "+5.00", "+4.00", "+6.00"]


def test_what_is_not_finished_or_not_defined_shows_a_dash(plan, records):
    kept = [record for record in records if (record.variant, record.seed) != ("deform_layers=3", 1)]
    assert miou_table(Scores(plan, kept)).rows[2] == ["deform_layers=3", "67.50 ± 3.54", "65.00", "-", "70.00"]
    assert "medium objects" not in measure_table(Scores(plan, kept)).head  # no object of the set is medium
    without_first = [record for record in records if record.variant != "deform_layers=0"]
    assert difference_table(Scores(plan, without_first)).rows[0] == ["deform_layers=1", "-", "-", "-", "-", "-"]
    text = sections(plan, kept, {"deform_layers=3-seed1": "killed by SIGKILL"})[0].texts
    assert "Only 8 of 9 runs are finished." in text
    assert "Failed: deform_layers=3-seed1: killed by SIGKILL" in text


def test_cost_and_offsets_are_told_by_variant(plan, records):
    """0.20, 0.21 and 0.23 s, half as much with seed 0; effective dilation of small objects 2.0, 2.1 and 2.2."""
    records = [
        replace(record, cost={**record.cost, "seconds_per_step": record.cost["seconds_per_step"] / 2})
        if record.seed == 0
        else record
        for record in records
    ]
    rows = cost_table(Scores(plan, records)).rows
    assert rows[0][1:3] == ["0.167 ± 0.058", "-"]
    assert rows[2] == ["deform_layers=3", "0.192 ± 0.066", "1.15 ± 0.00", "1,024 ± 0", "12.00"]
    table = offset_table(Scores(plan, records))
    assert table.head == [
        "variant",
        "layer",
        "mean length",
        "95 % below",
        "outside",
        "dilation, small",
        "dilation, large",
    ]
    assert len(table.rows) == 1 + 3
    assert table.rows[0] == ["deform_layers=1", "layer4.0.conv2", "0.500", "1.250", "12.5%", "2.10", "3.00"]


def test_a_report_of_one_seed_claims_no_spread(make_plan, make_record):
    plan = make_plan(seeds=[0])
    found = sections(plan, [make_record(plan, job) for job in plan.jobs()])
    assert found[1].table.rows[0] == ["deform_layers=0", "60.00", "60.00"]
    assert "nothing says how far it varies" in found[1].texts[0]
    assert found[1].table.head == ["variant", "mIoU", "seed 0"]
    assert not any("interval" in text for section in found for text in section.texts)


def test_other_starts_and_other_machines_are_said(plan, records, make_plan, make_record):
    starts = {**plan.starts, "deform_layers=3": Start("x", "other", offsets_move=True)}
    moved = [make_record(plan, job, machine="B CPU" if job.seed else "A CPU") for job in plan.jobs()]
    text = " ".join(text for section in sections(make_plan(starts=starts), moved) for text in section.texts)
    assert "deform_layers=3: other weights at the start than deform_layers=0" in text
    assert "Offsets do not start at zero in deform_layers=3." in text
    assert "seconds cannot be compared" in text
    text = " ".join(sections(plan, records)[0].texts)
    assert "other weights" not in text and "All offsets start at zero" in text


def test_the_page_needs_no_other_file_and_the_text_finds_its_pictures(plan, records, tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "99.png").touch()  # of an earlier report
    written = write(tmp_path, "Tried", sections(plan, records))
    html, text = (path.read_text(encoding="utf-8") for path in written.values())
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert len(sources) == 2 and all(source.startswith("data:image/png;base64,") for source in sources)
    files = re.findall(r"\]\((pictures/[^)]*)\)", text)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == sorted(Path(file).name for file in files)
    assert "| deform_layers=3 | +5.00 ± 0.58 |" in text


def test_names_cannot_end_up_as_markup():
    section = Section("<b>", ["`<i>`"], Table(["a<b"], [["<td>"]]), {'"<x>': Image.new("RGB", (2, 2))})
    found = page("<script>", [section])
    assert "<script>" not in found and "<i>" not in found and "<x>" not in found
    assert "<code>&lt;i&gt;</code>" in found and "<th class=text>&lt;td&gt;</th>" in found
