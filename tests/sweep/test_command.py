"""Macros of a command: W&B's own expansion is the reference."""

from pathlib import Path

import pytest
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from segdcn.errors import UserValueError
from segdcn.sweep.command import as_flags, check_command, expand

ARGUMENTS = {"lr": 0.1, "none": None, "yes": True, "no": False, "list": [1.0, 2], "model": {"a": "b c"}, "text": "x y"}


def by_wandb(command, program, arguments, json_file):
    """Expand as the loop in wandb_agent.Agent._command_run does."""
    macros = create_sweep_command_args({"args": {name: {"value": value} for name, value in arguments.items()}})
    macros |= {"interpreter": ["python"], "program": [program], "args_json_file": [str(json_file)]}
    macros |= {"env": ["/usr/bin/env"]}
    expanded = []
    for entry in create_sweep_command(list(command)):
        expanded += macros[entry[2:-1]] if entry.startswith("${") else [entry]
    return expanded


@pytest.mark.parametrize(
    "macro",
    [
        *("args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags"),
        *("args_append_hydra", "args_override_hydra", "args_json", "args_json_file"),
    ],
)
def test_every_macro_expands_as_wandb_expands_it(macro, monkeypatch):
    monkeypatch.setenv("ROOT_OF_DATA", "/data set")
    command = ["${env}", "${interpreter}", "${program}", "fit", "--root=${envvar:ROOT_OF_DATA}/x${envvar:NOT_SET_1}"]
    command.append("${" + macro + "}")
    expanded = expand(command, "segdcn", ARGUMENTS, Path("a.json"))
    assert expanded == by_wandb(command, "segdcn", ARGUMENTS, Path("a.json"))
    assert "--root=/data set/xNOT_SET_1" in expanded


JSON = ["--config", "${args_json_file}"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["bash", "-c", "echo", "fit", *JSON], "command has 'bash' before fit"),
        (["${program}", "fit", "--allow_classes=mine", *JSON], "command has --allow_classes"),
        (["${program}", "train", *JSON], "command needs ${program} and fit"),
        (["${program}", "fit", "${arg}"], "command has ${arg}; known are args, "),
        (
            ["${program}", "fit", "--config=${args_json_file}"],
            "W&B expands a macro only where it is an entry of its own",
        ),
        (["${program}", "fit"], "takes no parameters; end it with --config and ${args_json_file}"),
        (["${program}", "fit", "${args}"], "${args} makes null the text None"),
        (["${program}", "fit", *JSON, "--model", "m.yaml"], "command has --model after ${args_json_file}"),
        (["${program}", "fit", *JSON, "--data=d.yaml"], "command has --data after ${args_json_file}"),
    ],
)
def test_a_command_that_would_train_with_other_values_is_refused(command, message):
    with pytest.raises(UserValueError) as caught:
        check_command(command, "segdcn", null_values=True)
    assert message in str(caught.value)


def test_flags_are_fine_where_no_value_is_null():
    assert check_command(["${program}", "fit", "--seed_everything", 1, "${args}"], "segdcn", null_values=False)


def test_the_best_command_line_has_the_values_as_flags():
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", "--config", "base.yaml", *JSON]
    values = {
        "model.dilation": None,
        "model.modulated": False,
        "model.loss": {"dice": 1.0},
        "model.encoder": "resnet18",
    }
    assert as_flags(command, values) == (
        "segdcn fit --config base.yaml --model.dilation null --model.modulated false "
        "--model.loss '{\"dice\": 1.0}' --model.encoder resnet18"
    )
