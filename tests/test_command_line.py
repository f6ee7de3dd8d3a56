import pytest

from segdcn.command_line import CommandLine


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("trainer: {max_epochs: 5}\n")
    (tmp_path / "recipe.yaml").write_text("data: {init_args: {batch_size: 16, seed: 1}}\nmodel: {lr: 0.5}\n")
    (tmp_path / "data.yaml").write_text("class_path: segdcn.data.VOC\ninit_args: {batch_size: 8, seed: 1}\n")
    (tmp_path / "model.yaml").write_text("{lr: 0.1, encoder: resnet18}\n")
    (tmp_path / "whole.yaml").write_text("{data: data.yaml, model: model.yaml}\n")


def line(text):
    return CommandLine(["fit", *text.split()])


def test_flags_of_a_group_are_found_in_both_spellings():
    assert line("--model.lr 1 --model.encoder=resnet18 --data.root x").flags("model") == {"lr", "encoder"}


@pytest.mark.usefixtures("files")
def test_the_model_s_keys_come_from_all_files():
    assert line("--config base.yaml -c recipe.yaml").model_keys_in_files() == {"lr"}
    assert line("--config=recipe.yaml --model=model.yaml").model_keys_in_files() == {"lr", "encoder"}
    assert line("--config whole.yaml").model_keys_in_files() == {"lr", "encoder"}


@pytest.mark.usefixtures("files")
def test_a_recipe_that_comes_too_early_is_named_with_what_it_loses():
    assert line("--config base.yaml --config recipe.yaml --data data.yaml --model model.yaml").overruled() == [
        "data.batch_size: 8 from data.yaml, not 16 from recipe.yaml: what comes later wins",
        "model.lr: 0.1 from model.yaml, not 0.5 from recipe.yaml: what comes later wins",
    ]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    "text",
    [
        "--config base.yaml --data data.yaml --model model.yaml --config recipe.yaml",
        "--data segdcn.data.VOC --model.lr 1",
        "--config recipe.yaml --data segdcn.data.VOC --model.lr 1",
    ],
)
def test_what_wins_as_it_is_meant_to_gets_no_line(text):
    assert line(text).overruled() == []
