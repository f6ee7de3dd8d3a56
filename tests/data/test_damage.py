"""Every damage is found by `segdcn data check`, and stops training with the file's name in one line."""

import pytest
from damage import CASES, fit_arguments, is_found, is_stopped, make, one_line, problems, stop

from segdcn import cli

STOPPING = [case for case in CASES if case.stops_training]
ALL = pytest.mark.parametrize("case", [case for case in CASES if case.applies], ids=lambda case: case.id)


def of(kind, name):
    return next(case for case in CASES if (case.kind, case.name) == (kind, name))


def test_there_are_ten_kinds_of_damage_and_more_with_three_cases_each():
    by_kind = {kind: [case for case in STOPPING if case.kind == kind] for kind in {case.kind for case in STOPPING}}
    assert len(by_kind) >= 10 and all(len(cases) >= 3 for cases in by_kind.values())


@ALL
def test_the_check_and_training_say_what_is_wrong(case, tmp_path):
    data = make(case, tmp_path)
    found = problems(data)
    assert is_found(case, found), found
    for num_workers in (0, 2):
        message = stop(data, num_workers)
        assert is_stopped(case, message), message


def check_fit(case, folder, num_workers, capfd):
    """Workers write past sys.stderr, if they write: the whole process is listened to."""
    data = make(case, folder)
    capfd.readouterr()
    code = cli.main(fit_arguments(data, num_workers))
    message = one_line(code, capfd.readouterr().err)
    assert is_stopped(case, message), message


@pytest.mark.parametrize(
    ("kind", "name", "num_workers"),
    [
        ("cut short", "labels", 1),  # ends as slowly as it has workers
        ("missing file", "picture", 0),
        ("values of Cityscapes", "254 in val", 0),
        ("list leads outside", "backslashes", 0),
    ],
)
def test_fit_stops_with_one_line(kind, name, num_workers, tmp_path, capfd):
    check_fit(of(kind, name), tmp_path, num_workers, capfd)


@pytest.mark.slow
@ALL
def test_fit_stops_with_one_line_at_every_damage(case, tmp_path, capfd):
    check_fit(case, tmp_path, 2, capfd)
