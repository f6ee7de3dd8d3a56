"""Whose settings win where training goes on: flags, then the checkpoint, then files."""

import pytest

from segdcn.command_line import CommandLine
from segdcn.training.checkpoint import settings_to_take

SAVED = {"lr": 0.1, "deform_layers": 3, "class_weights": [1.0, 2.0], "eval_flip": False, "of_an_older_version": 1}
FILE = {"lr": 0.2, "deform_layers": 1, "class_weights": "balanced", "eval_flip": True}


def taken(verb, *flags):
    """What is taken from the checkpoint where a file sets all, and the keys that lines were printed about."""
    said = []
    line = CommandLine([verb, f"--model={FILE}", *flags])
    found = settings_to_take(verb, SAVED, {**FILE, "encoder_weights": "imagenet"}, line, said.append)
    return found, [text.partition(":")[0] for text in said]


def test_fit_takes_all_that_is_known_and_says_which_lines_of_files_do_not_count():
    found, said = taken("fit")
    known = {key: value for key, value in SAVED.items() if key != "of_an_older_version"}
    assert found == {**known, "encoder_weights": None}
    assert said == ["model.lr", "model.deform_layers", "model.eval_flip"]  # balanced weights are the same, computed


def test_a_flag_wins():
    found, said = taken("fit", "--model.lr", "0.3")
    assert "lr" not in found and "model.lr" not in said


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_files_say_how_to_evaluate_and_only_the_network_is_spoken_of(verb):
    found, said = taken(verb)
    assert "eval_flip" not in found and said == ["model.deform_layers"]


def test_weights_are_never_fetched_in_place_of_the_checkpoints():
    assert taken("fit", "--model.encoder_weights=imagenet")[0]["encoder_weights"] is None
