import pytest
import yaml

from segdcn.errors import InvalidDataError, MissingFileError, UserValueError
from segdcn.sweep.file import Hyperband, read_sweep
from segdcn.sweep.parameters import Choice, Range


def space(sweep_file, spec):
    (parameter,) = read_sweep(sweep_file({"model.lr": spec}, "random")).parameters
    return parameter.space


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"value": None}, Choice((None,))),
        (
            {"values": [None, True, [1.0, 2.0], {"dice": 0.5}, "a"]},
            Choice((None, True, [1.0, 2.0], {"dice": 0.5}, "a")),
        ),
        ({"min": 1, "max": 3}, Range(1, 3, step=1, whole=True)),
        ({"min": 1, "max": 3.0}, Range(1, 3)),
        ({"distribution": "uniform", "min": 1, "max": 3}, Range(1, 3)),
        ({"distribution": "q_uniform", "min": 0.2, "max": 0.8, "q": 0.2}, Range(0.2, 0.8, step=0.2)),
        ({"distribution": "q_uniform", "min": 2, "max": 8, "q": 2}, Range(2, 8, step=2, whole=True)),
        ({"distribution": "log_uniform_values", "min": 0.01, "max": 1}, Range(0.01, 1, log=True)),
        ({"distribution": "log_uniform", "min": 0, "max": 0.6931471805599453}, Range(1, 2, log=True)),
    ],
)
def test_distributions_are_read_as_wandb_defines_them(sweep_file, spec, expected):
    assert space(sweep_file, spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"distribution": "normal", "mu": 0, "sigma": 1},
            "model.lr: a local sweep has no normal, which W&B has; it has",
        ),
        ({"mu": 0, "sigma": 1}, "a local sweep has no normal"),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 2}, "a local sweep has no q_log_uniform_values"),
        ({"values": [1, 2], "probabilities": [0.1, 0.9]}, "a local sweep has no categorical_w_probabilities"),
        ({"distribution": "unifrom", "min": 0, "max": 1}, "no distribution 'unifrom'; did you mean uniform"),
        ({"min": "1e-4", "max": 1.0}, "min is '1e-4'; expected a number, written like 1.0e-4"),
        ({"min": 2, "max": 1}, "min is 2 and max 1; expected min below max"),
        ({"min": 0.5, "max": 2, "q": 1}, "uniform does not take 'q'"),
        ({"distribution": "q_uniform", "min": 0.1, "max": 1, "q": 0.2}, "min and max that are multiples of q"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 2}, "int_uniform needs whole numbers"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 2}, "needs one above 0"),
        ({"min": -(10**60), "max": 1}, "expected a number of at most 9.0072e+15 in size"),
        ({"min": 0.0, "max": float("inf")}, "max is inf; expected a number of at most"),
        ({"min": 0.0, "max": float("nan")}, "max is nan; expected a number of at most"),
        ({"distribution": "log_uniform", "min": 0, "max": 1000}, "log_uniform takes exponents, of at most 700"),
        ({"values": []}, "expected a list with something in it"),
        ({"min": 1}, "needs value, values, or min and max"),
        (0.1, "model.lr is 0.1; write value: 0.1"),
    ],
)
def test_what_a_local_sweep_cannot_do_is_refused_by_name(sweep_file, spec, message):
    with pytest.raises(UserValueError) as caught:
        space(sweep_file, spec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("method", "simulated", "method is 'simulated'; expected one of grid, random, bayes"),
        ("controller", {"type": "local"}, "a local sweep does not know 'controller'"),
        ("earlyterminate", {}, "did you mean early_terminate?"),
        ("metric", None, "metric needs a name"),
        ("metric", {"name": "a", "goal": "most"}, "metric.goal is 'most'"),
        ("metric", {"name": "a", "target": 1}, "does not know metric.target"),
        ("run_cap", 0, "run_cap is 0; expected a whole number from 1 on"),
        ("early_terminate", {"type": "median"}, "a local sweep knows type: hyperband"),
        ("early_terminate", {"type": "hyperband"}, "needs either min_iter, or max_iter and s"),
        ("early_terminate", {"type": "hyperband", "max_iter": 27}, "early_terminate.s is None"),
        ("early_terminate", {"type": "hyperband", "min_iter": 1, "eta": 1.5}, "early_terminate.eta is 1.5"),
        ("program", "train.py", "a local sweep runs program: segdcn"),
        ("command", None, "command needs ${program} and fit"),
    ],
)
def test_what_else_it_does_not_know_is_refused_by_name(sweep_file, key, value, message):
    with pytest.raises(UserValueError) as caught:
        read_sweep(sweep_file({"x": {"value": 1}}, **{key: value}))
    assert message in str(caught.value)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match="there is no sweep file"):
        read_sweep(tmp_path / "nowhere.yaml")
    path = tmp_path / "other.yaml"
    for text in ("[", "- 1", "method: grid", "\xff\x00"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(InvalidDataError):
            read_sweep(path)


def test_a_grid_is_every_combination_with_the_last_parameter_fastest(sweep_file):
    grid = read_sweep(
        sweep_file({"a": {"values": [None, True]}, "b": {"min": 1, "max": 3}, "c": {"value": "k"}})
    ).grid()
    assert [(point["a"], point["b"], point["c"]) for point in grid] == [
        *((None, 1, "k"), (None, 2, "k"), (None, 3, "k")),
        *((True, 1, "k"), (True, 2, "k"), (True, 3, "k")),
    ]


def test_a_grid_over_a_continuous_range_is_refused(sweep_file):
    with pytest.raises(UserValueError, match="parameters.x: a grid needs values, or a step"):
        read_sweep(sweep_file({"x": {"min": 0.0, "max": 1.0}}))


def test_nested_parameters_are_nested_again_in_the_arguments(sweep_file):
    sweep = read_sweep(
        sweep_file(
            {"model": {"parameters": {"lr": {"value": 0.5}, "loss": {"value": {"dice": 1}}}}, "a.b": {"value": 2}}
        )
    )
    assert [parameter.name for parameter in sweep.parameters] == ["model.lr", "model.loss", "a.b"]
    (values,) = sweep.grid()
    assert sweep.arguments(values) == {"model": {"lr": 0.5, "loss": {"dice": 1}}, "a.b": 2}


def test_a_parameter_that_is_there_twice_is_refused(sweep_file):
    with pytest.raises(UserValueError, match="parameters.model.lr is there twice"):
        read_sweep(sweep_file({"model.lr": {"value": 1}, "model": {"parameters": {"lr": {"value": 2}}}}))


def test_hyperband_is_read_in_both_of_its_forms(sweep_file):
    """27 / 3**2 is 3; the default of eta is 3."""
    for early in ({"min_iter": 3}, {"max_iter": 27, "s": 2, "strict": True}):
        sweep = read_sweep(sweep_file({"x": {"value": 1}}, early_terminate={"type": "hyperband", **early}))
        assert sweep.early == Hyperband(first=3, eta=3)


def test_the_name_is_one_that_a_folder_can_have(sweep_file):
    assert read_sweep(sweep_file({"x": {"value": 1}})).name == "tried"
    assert read_sweep(sweep_file({"x": {"value": 1}}, name="../Größe: 1/2")).name == "Gr-e-1-2"


def test_the_goal_is_wandb_s_default_where_none_is_given(sweep_file):
    assert not read_sweep(sweep_file({"x": {"value": 1}}, metric={"name": "val/loss"})).maximize


def test_the_files_that_are_shipped_can_be_swept_locally(request):
    files = sorted((request.config.rootpath / "configs" / "sweep").glob("*.yaml"))
    sweeps = {path.stem: read_sweep(path) for path in files}
    layers = sweeps["deform_layers"]
    assert [point["model.deform_layers"] for point in layers.grid()] == [0, 1, 2, 3, 6]
    assert any(sweep.early for sweep in sweeps.values())
    assert all(yaml.safe_load(path.read_text())["program"] == "segdcn" for path in files)
