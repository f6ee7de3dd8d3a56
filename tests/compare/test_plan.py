import json
from dataclasses import asdict, replace

import pytest

from segdcn.compare.plan import flat, keep_plan, read_plan, write_json
from segdcn.compare.record import read_records, record_file
from segdcn.compare.variants import variants
from segdcn.errors import InvalidDataError, MissingFileError, UserValueError


def test_runs_come_seed_by_seed(plan):
    names = [job.name for job in plan.jobs()]
    assert names[:4] == [
        "deform_layers=0-seed0",
        "deform_layers=1-seed0",
        "deform_layers=3-seed0",
        "deform_layers=0-seed1",
    ]
    assert len(names) == 9


def test_a_plan_that_is_kept_is_read_back(plan, tmp_path):
    keep_plan(tmp_path / "new", plan)
    keep_plan(tmp_path / "new", plan)
    assert read_plan(tmp_path / "new") == plan


@pytest.mark.parametrize(
    "change,message",
    [
        ({"seeds": [0, 1]}, "it has 3 seeds, here there are 2"),
        ({"variants": variants(["deform_layers=3,0,1"])}, "its variants are deform_layers=0, deform_layers=1"),
        ({"variants": variants(["deform_layers=0,3"])}, "its variants are .*, here they are deform_layers=0, deform_l"),
        ({"checkpoint": "best"}, "it measures the last epoch, here it is the best one"),
    ],
)
def test_another_plan_under_the_same_name_is_refused_by_what_differs(plan, tmp_path, change, message, make_plan):
    keep_plan(tmp_path, plan)
    with pytest.raises(UserValueError, match=message):
        keep_plan(tmp_path, make_plan(**change))


def test_other_start_weights_or_samples_under_the_same_settings_are_refused(plan, tmp_path, make_plan):
    keep_plan(tmp_path, plan)
    other = {**plan.starts, "deform_layers=1": replace(plan.starts["deform_layers=1"], weights="of another file")}
    with pytest.raises(UserValueError, match="deform_layers=1 starts from other weights here"):
        keep_plan(tmp_path, make_plan(starts=other))
    with pytest.raises(UserValueError, match="the samples of deform_layers=0 have other names or sizes"):
        keep_plan(tmp_path, make_plan(data={**plan.data, "deform_layers=0": "others"}))


def test_seeds_and_variants_may_be_added(plan, tmp_path, make_plan, make_record):
    """What was finished stays finished."""
    fewer = make_plan(seeds=[0, 1], variants=plan.variants[:2])
    keep_plan(tmp_path, fewer)
    for job in fewer.jobs():
        write_json(record_file(tmp_path, job), asdict(make_record(fewer, job)))
    keep_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert len(read_records(tmp_path, plan)) == 4


def test_a_setting_that_was_changed_since_is_named(plan, tmp_path, make_plan):
    keep_plan(tmp_path, plan)
    settings = {name: {**values, "model.lr": 0.2} for name, values in plan.settings.items()}
    with pytest.raises(UserValueError, match=r"model.lr is 0.1 there and 0.2 here; choose another --name"):
        keep_plan(tmp_path, make_plan(settings=settings))


def test_a_folder_of_something_else_is_left_alone(plan, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserValueError, match="holds other things, such as thesis.tex"):
        keep_plan(tmp_path, plan)
    with pytest.raises(MissingFileError, match="there is no comparison"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(InvalidDataError, match="plan.json is damaged"):
        read_plan(tmp_path)


def test_settings_are_told_apart_by_what_changes_a_result_only():
    settings = {
        "name": "x",
        "seed_everything": 3,
        "model": {"lr": 0.1, "loss": {"focal": 1.0}},
        "data": {"class_path": "segdcn.data.VOC", "init_args": {"root": "d", "seed": 3, "num_workers": 4}},
    }
    assert flat(settings) == {
        "model.lr": 0.1,
        "model.loss.focal": 1.0,
        "data.class_path": "segdcn.data.VOC",
        "data.root": "d",
    }


def test_the_hash_of_a_runs_settings_knows_the_variant_and_the_seed(plan, make_plan):
    assert len({plan.settings_hash(job) for job in plan.jobs()}) == 9
    assert plan.settings_hash(next(plan.jobs())) == make_plan().settings_hash(next(plan.jobs()))
