"""Configurations that are wrong: in form, in type, in value, in the classes they name."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml
from attempt import Mutation

FILES = ("base.yaml", "shapes.yaml", "model.yaml")
FIT = ["fit", "--config=base.yaml", "--data=shapes.yaml", "--model=model.yaml", "--name=new"]


def edited(file: str, key: str, value: Any) -> Callable[[Path, Random], list[str]]:
    """Set a dotted key of a YAML to a value."""

    def make(folder: Path, rng: Random) -> list[str]:
        content = yaml.safe_load((folder / file).read_text())
        place = content
        *groups, last = key.split(".")
        for group in groups:
            if not isinstance(place.get(group), dict):  # not there, or null
                place[group] = {}
            place = place[group]
        place[last] = value
        (folder / file).write_text(yaml.safe_dump(content))
        return FIT

    return make


def file_of(group: str) -> tuple[str, str]:
    """Tell the file that holds a group's settings, and what stands before a key there."""
    return {"data": ("shapes.yaml", "init_args."), "model": ("model.yaml", "")}.get(group, ("base.yaml", f"{group}."))


def set_key(name: str, value: Any) -> Mutation:
    group, _, key = name.partition(".")
    file, before = file_of(group) if key else ("base.yaml", "")
    spoil = edited(file, f"{before}{key or group}", value)

    def make(folder: Path, rng: Random) -> list[str]:
        spoil(folder, rng)
        return [word for word in FIT if name != "name" or word != "--name=new"]

    return Mutation(f"{name}: {str(value)[:60]!r}", make)


# A value of each type, for keys that take none of it.
OTHERS: dict[str, list[Any]] = {
    "number": ["many", [1, 2], {"a": 1}, True, "0x", "", None],
    "text": [[1], {"a": 1}, 3.5, None],
    "switch": ["perhaps", [True], 7.5, {}, None],
    "choice": ["other", 3, [], {"x": "y"}],
    "numbers": ["a", {"a": 1}, [[1]], ["x", "y"]],
    "mapping": ["text", 5, [1, 2]],
}
KEYS = {
    "number": [
        *("data.batch_size", "data.num_workers", "data.flip_prob", "data.rotation", "data.blur", "data.seed"),
        *("model.output_stride", "model.deform_layers", "model.lr", "model.weight_decay", "model.warmup_steps"),
        *("model.offset_groups", "model.aux_weight", "model.poly_power", "pictures.count", "divergence.skip"),
        *("offset_health.every_n_steps", "trainer.accumulate_grad_batches", "trainer.log_every_n_steps"),
    ],
    "switch": ["model.modulated", "model.compile", "model.channels_last", "model.eval_flip"],
    "choice": ["model.architecture", "model.optimizer", "model.eval_sums", "data.cache", "wandb", "model.eval_detail"],
    "numbers": ["data.mean", "data.std", "data.scale_range", "model.class_weights", "model.eval_scales"],
    "mapping": ["model.loss", "trainer", "pictures", "early_stopping", "effective_dilation"],
    "text": ["data.root", "data.train_split", "model.encoder", "runs_dir"],
}


def wrong_types() -> Iterator[Mutation]:
    for kind, keys in KEYS.items():
        for name in keys:
            for value in OTHERS[kind]:
                if not (kind == "number" and value is True) and not (value is None and name.startswith("trainer.")):
                    yield set_key(name, value)


NAN, INF = float("nan"), float("inf")
OUT_OF_RANGE: dict[str, list[Any]] = {
    "data.batch_size": [0, -1, 10**9],
    "data.eval_batch_size": [0, -3],
    "data.num_workers": [-1, 10**6],
    "data.crop_size": [0, -32, 31, [32], [32, 33], [32, 32, 32]],
    "data.scale_range": [[0, 1], [2, 1], [-1, 1], [1], [1, NAN], [1, 1, 1]],
    "data.flip_prob": [-0.1, 1.1, NAN],
    "data.cat_max_ratio": [0, 1.5, -1],
    "data.rotation": [-5, 1000, NAN],
    "data.blur": [-1, 2],
    "data.colour_jitter": [-0.5, 7],
    "data.mean": [[0.5], [0.5, 0.5, NAN], []],
    "data.std": [[0, 0, 0], [1, 1], [-1, 1, 1]],
    "data.seed": [-1],
    "data.size_divisor": [0, -8, 7],
    "data.train_split": ["", "nowhere", "../val", "/etc"],
    "data.train_limit": [0, -1],
    "data.eval_limit": [0, -1],
    "data.root": ["", "nowhere", "shapes.yaml", "\0", "a" * 5000],
    "model.architecture": [""],
    "model.encoder": ["", "resnet17", "vgg11", "../resnet18"],
    "model.encoder_weights": ["nobody", ""],
    "model.output_stride": [0, 7, -16, 64],
    "model.deform_layers": [-1, 999],
    "model.offset_groups": [0, -1, 7, 10**6],
    "model.dilation": [0, -2],
    "model.loss": [{}, {"dice": -1}, {"nothing": 1}, {"cross_entropy": 0}, {"cross_entropy": NAN}],
    "model.class_weights": [[1, 2], [], [-1] * 7, [NAN] * 7],
    "model.label_smoothing": [-0.1, 1.5],
    "model.aux_weight": [-1, NAN],
    "model.lr": [-0.1, NAN, INF],
    "model.lr_batch": [0],
    "model.momentum": [-1, 2],
    "model.weight_decay": [-1, NAN],
    "model.encoder_lr_scale": [-1],
    "model.offset_lr_scale": [-1, NAN],
    "model.offset_warmup_steps": [-1],
    "model.warmup_steps": [-1],
    "model.poly_power": [-1, NAN],
    "model.min_lr": [-1, 99],
    "model.ema_decay": [1, -0.1, 2],
    "model.eval_window": [0, -16, 17, [16], [16, 16, 16]],
    "model.eval_overlap": [1, -1, NAN],
    "model.eval_scales": [[], [0], [-1], [NAN], [1000000]],
    "trainer.max_epochs": [-5, 0],
    "trainer.max_steps": [-7, 0],
    "trainer.accelerator": ["abacus", "tpu", "gpu"],
    "trainer.devices": [0, -3, "all"],
    "trainer.precision": ["4-bit", 17],
    "trainer.strategy": ["magic"],
    "trainer.num_nodes": [0, -1],
    "trainer.accumulate_grad_batches": [0, -1],
    "trainer.gradient_clip_val": [-1],
    "trainer.val_check_interval": [0, -1, 1.5, 10**6],
    "trainer.check_val_every_n_epoch": [0, -1],
    "trainer.log_every_n_steps": [-1],
    "trainer.limit_train_batches": [-1, 1.5],
    "trainer.max_time": ["soon"],
    "trainer.profiler": ["x-ray"],
    "trainer.callbacks": [["text"], [{}], [{"class_path": "EarlyStopping"}]],
    "trainer.plugins": ["adapter"],
    "trainer.default_root_dir": ["elsewhere"],
    "pictures.count": [-1],
    "divergence.loss_above": [-1, 0],
    "divergence.skip": [-1],
    "offset_health.every_n_steps": [-1],
    "offset_health.dead_below": [99],
    "effective_dilation.images": [-1],
    "effective_dilation.sizes": [[9, 1], [], [-5, 1]],
    "early_stopping": [{"monitor": "val/mIoU", "patience": 0}, {"patience": -1}, {"monitor": "nothing/known"}],
    "seed_everything": [-1, 2**40],
    "name": ["", "..", "a/b", "../../up", "-x", "x" * 300],
    "runs_dir": ["shapes.yaml", "/proc/runs", "\0"],
}


def out_of_range() -> Iterator[Mutation]:
    for name, values in OUT_OF_RANGE.items():
        for value in values:
            yield set_key(name, value)


UNKNOWN = [
    *("data.batchsize", "data.init_arg", "data.root_dir", "model.deform_layer", "model.learning_rate", "model.classes"),
    *("model.num_classes", "model.palette", "trainer.epochs", "trainer.gpus", "trainer.resume_from_checkpoint"),
    *("pictures.number", "divergence.skips", "offset_health.every", "optimizer.lr", "weights", "verb", "fit.model.lr"),
    *("allow_classes", "debug", "early_stopping.when", "model.__class__", "data.__init__", "class_path", "1", ""),
]


def unknown_keys() -> Iterator[Mutation]:
    for name in UNKNOWN:
        yield set_key(name, 1)


def content(file: str, text: str | bytes, name: str) -> Mutation:
    def make(folder: Path, rng: Random) -> list[str]:
        (folder / file).write_bytes(text.encode() if isinstance(text, str) else text)
        return FIT

    return Mutation(f"{file}: {name}", make)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9)
)
NO_YAML: dict[str, str | bytes] = {
    "bytes": bytes(range(256)),
    "zeros": b"\0" * 100,
    "UTF-16": "seed_everything: 1\n".encode("utf-16"),
    "Latin-1": "name: f\xfc\n".encode("latin-1"),
    "open bracket": "model: {lr: 0.1",
    "open quote": "name: 'tried",
    "tabs": "model:\n\tlr: 0.1\n",
    "two colons": "model: lr: 0.1",
    "a list": "- 1\n- 2\n",
    "a number": "17",
    "a text": "just words",
    "many expanding references": BOMB,
    "a reference to itself": "&a [*a]",
    "a mapping that holds itself": "trainer: &t {callbacks: [*t]}",
    "an unknown reference": "name: *nobody",
    "a Python object": "name: !!python/object/apply:os.system ['touch hacked']",
    "a Python name": "runs_dir: !!python/name:os.system",
    "two documents": "seed_everything: 1\n---\nseed_everything: 2\n",
    "deep nesting": "trainer: " + "[" * 3000 + "]" * 3000,
    "a HTML page": "<html><body>404 Not Found</body></html>",
    "a merge conflict": "<<<<<<< HEAD\nname: a\n=======\nname: b\n>>>>>>> b\n",
    "a key that is a list": "? [1, 2]\n: 3\n",
}


def no_yaml() -> Iterator[Mutation]:
    for file in FILES:
        for name, text in NO_YAML.items():
            yield content(file, text, name)


def cut_short() -> Iterator[Mutation]:
    """Cut behind the opening of a bracket or a quote, which is never a whole YAML."""
    for file in FILES:
        for number in range(8):

            def make(folder: Path, rng: Random, file: str = file) -> list[str]:
                path = folder / file
                text = f"{path.read_text()}\nlast: {{a: [1, 2, 'text'], b: \"more\"}}\n"
                openings = [i for i, letter in enumerate(text) if letter in "[{" or text[i : i + 2] in (" '", ' "')]
                end = rng.choice(openings) + rng.randint(1, 2)
                path.write_text(text[:end].rstrip("]}'\""))
                return FIT

            yield Mutation(f"{file}, cut {number}", make)


CLASSES = [
    *("os.system", "builtins.eval", "subprocess.Popen", "segdcn.data.base.os.system", "segdcn.cli.main", "torch.load"),
    *(
        "antigravity.Data",
        "segdcn.data.Nothing",
        "segdcn.data",
        "segdcn.data.SegmentationData",
        "Shapes2",
        "",
        "..",
        ".",
    ),
    *(
        "segdcn.data.Shapes.__init__",
        "segdcn..data",
        "pytorch_lightning.Trainer",
        "pathlib.Path",
        "a b",
        "segdcn.data.VOC\n",
    ),
]


def classes() -> Iterator[Mutation]:
    for name in CLASSES:
        yield Mutation(f"data: {name!r}", edited("shapes.yaml", "class_path", name))
        yield Mutation(f"data check: {name!r}", checked(edited("shapes.yaml", "class_path", name)))
        if name not in ("segdcn.data", "segdcn.data.SegmentationData"):
            callback = [{"class_path": name, "init_args": {"args": "ls"}}]
            yield Mutation(f"callback: {name!r}", edited("base.yaml", "trainer.callbacks", callback))
    function = [
        {"class_path": "pytorch_lightning.callbacks.LambdaCallback", "init_args": {"on_fit_start": "os.getcwd"}}
    ]
    yield Mutation("a function for a callback", edited("base.yaml", "trainer.callbacks", function))


def checked(spoil: Callable[[Path, Random], list[str]]) -> Callable[[Path, Random], list[str]]:
    """Spoil, and give the data's YAML to `data check` instead of `fit`."""

    def make(folder: Path, rng: Random) -> list[str]:
        spoil(folder, rng)
        return ["data", "check", "shapes.yaml"]

    return make


OVERRULED = ("data.num_workers",)  # by an argument of `data check`


def data_settings() -> Iterator[Mutation]:
    """What the other verbs read from a data YAML goes past the parser of `fit`."""
    for name, values in OUT_OF_RANGE.items():
        if name.startswith("data.") and name not in OVERRULED:
            for value in values:
                yield Mutation(f"check {name}: {str(value)[:50]!r}", checked(set_key(name, value).make), listed=True)
    for kind, keys in KEYS.items():
        for name in keys:
            if name.startswith("data.") and name not in OVERRULED:
                for value in OTHERS[kind]:
                    yield Mutation(f"check {name}: {value!r}", checked(set_key(name, value).make), listed=True)


FOLDER = {
    "root": "set",
    "classes": {name: [i, i, i] for i, name in enumerate(("ground", "a", "b", "c", "d", "e", "f"))},
    "images": "JPEGImages/{name}.png",
    "labels": "SegmentationClass/{name}.png",
    "lists": "ImageSets/Segmentation/{split}.txt",
}
FOLDERS: dict[str, list[Any]] = {
    "classes": [{}, [], "a", {"a": 1}, {"a": [1, 2]}, {"a": [1, 2, 300]}, {"a": "red"}, None, {"a": [0, 0, 0]}, {1: 2}],
    "images": [
        "",
        "a.png",
        "{name",
        "{nam}.png",
        "{0}.png",
        "{name.__class__}.png",
        "{name!x}.png",
        "../{name}.png",
        5,
    ],
    "labels": ["{}", "{name}", "/etc/{name}.png", "nowhere/{name}.png", "{name:>99999999999}.png", ["{name}.png"]],
    "lists": ["list.txt", "{split}", "{split}/{split}", "{name}.txt", "../{split}.txt", "/dev/{split}", "{split", 7],
    "label_format": ["color", None, 3],
    "id_map": [{0: 99}, {"a": 1}, {0: -1}, [1], {0: 0}, "all"],
    "ignore": [["a"], [[1, 2, 3]], 255, [None], {}],
    "extra": [1],
}


def folders() -> Iterator[Mutation]:
    for key, values in FOLDERS.items():
        for value in values:

            def make(folder: Path, rng: Random, key: str = key, value: Any = value) -> list[str]:
                description = {"class_path": "segdcn.data.Folder", "init_args": FOLDER | {key: value}}
                (folder / "shapes.yaml").write_text(yaml.safe_dump(description))
                return rng.choice([["data", "check", "shapes.yaml"], FIT])

            yield Mutation(f"{key}: {str(value)[:60]!r}", make, listed=True)


CATEGORIES = {
    "description of a folder": folders,
    "configuration of wrong types": wrong_types,
    "configuration out of range": out_of_range,
    "configuration with unknown keys": unknown_keys,
    "configuration that is no YAML": no_yaml,
    "configuration cut short": cut_short,
    "classes in configurations": classes,
    "data YAML of another verb": data_settings,
}
