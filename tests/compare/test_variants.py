import pytest

from segdcn.compare.variants import check_fit_arguments, variants
from segdcn.errors import UserValueError


def test_all_combinations_are_variants_the_last_key_varying_fastest():
    found = variants(["deform_layers=0,3", "dilation=2,4"])
    assert [variant.name for variant in found] == [
        "deform_layers=0+dilation=2",
        "deform_layers=0+dilation=4",
        "deform_layers=3+dilation=2",
        "deform_layers=3+dilation=4",
    ]
    assert found[1].values == {"model.deform_layers": 0, "model.dilation": 4}
    assert found[1].flags() == ["--model.deform_layers=0", "--model.dilation=4"]


def test_values_are_yaml():
    (variant, other) = variants(["model.loss=null,{focal: 1.0, dice: 0.5}"])
    assert (variant.values["model.loss"], other.values["model.loss"]) == (None, {"focal": 1.0, "dice": 0.5})
    assert variant.flags() == ["--model.loss=null"]
    assert other.flags() == ['--model.loss={"focal": 1.0, "dice": 0.5}']
    lists = variants(["data.crop_size=[64, 96],32"])
    assert [one.values["data.crop_size"] for one in lists] == [[64, 96], 32]
    assert lists[0].flags() == ["--data.crop_size=[64, 96]"]
    assert variants(["lr=2024-01-01,3"])[0].flags() == ['--model.lr="2024-01-01"']  # fit refuses it
    assert variants(["encoder=resnet18,resnet50"])[1].flags() == ["--model.encoder=resnet50"]


def test_a_key_without_a_group_is_the_models_or_the_datas():
    keys = [next(iter(variants([text])[0].values)) for text in ("lr=1,2", "crop_size=32,64", "trainer.max_epochs=1,2")]
    assert keys == ["model.lr", "data.crop_size", "trainer.max_epochs"]


def test_keys_of_one_name_are_told_apart_and_names_are_names_of_folders():
    names = [variant.name for variant in variants(["data.init_args.x=1,2", "model.lr=1,2", "trainer.x=a/b"])]
    assert names[0] == "data.init_args.x=1+lr=1+trainer.x=a-b"
    assert len(variants(["trainer.x=a/b,a b"])) == 2  # both are a-b in a name
    assert len({variant.name for variant in variants(["trainer.x=a/b,a b"])}) == 2


@pytest.mark.parametrize(
    "vary,message",
    [
        ([], "nothing is varied; give --vary"),
        (["deform_layers"], "cannot be read; expected key=value,value"),
        (["deform_layers="], "cannot be read"),
        (["deform_layers=[0"], "cannot be read"),
        (["deform_layers=0,0"], "has 0 twice"),
        (["lr=1", "model.lr=2"], "--vary model.lr is given twice"),
        (["deform_layer=0,3"], "no such setting of model or data; did you mean deform_layers"),
        (["model.deform_layer=0,3"], "no such setting; did you mean model.deform_layers"),
        (["seed=1,2"], "seed cannot be varied: --seeds says"),
        (["seed_everything=1,2"], "cannot be varied"),
        (["data.init_args.seed=1,2"], "cannot be varied: --seeds says"),
        (["name=a,b"], "runs are named by their variant"),
        (["num_classes=1,2"], "no such setting"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_one_line(vary, message):
    with pytest.raises(UserValueError) as caught:
        variants(vary)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["--ckpt_path=last", "--seed_everything", "--data.init_args.seed=3", "--print_config"])
def test_flags_that_a_comparison_sets_itself_are_refused(flag):
    check_fit_arguments(["--config", "a.yaml", "--data", "b.yaml", "--model.lr", "1"])
    with pytest.raises(UserValueError, match="has no place in a comparison"):
        check_fit_arguments([flag, "1"])
