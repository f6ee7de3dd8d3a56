"""Sweep files that are wrong."""

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import yaml
from attempt import Mutation
from settings import NO_YAML

LINE = ["sweep", "sweep.yaml", "--local", "--dry_run", "--count=2"]
GONE = object()

CHANGES: dict[str, list[Any]] = {
    "program": ["train.py", GONE, 5, "", ["segdcn"]],
    "method": ["guess", GONE, 5, None, ["grid"]],
    "metric": [
        GONE,
        "val/mIoU",
        {"goal": "maximize"},
        {"name": "x", "goal": "up"},
        {"name": 5},
        {"name": "x", "at": 1},
    ],
    "parameters": [GONE, [], {}, "lr", {"model.lr": 0.1}, {"model.lr": {}}, {"model.lr": {"values": []}}, {"": {}}],
    "command": [
        *(GONE, "fit", ["fit"], ["${program}", "fit"], ["bash", "-c", "touch hacked", "fit", "${args_json_file}"]),
        *(["${program}", "fit", "${nothing}"], ["${program}", "fit", "--config=${args_json_file}"], {"a": 1}, []),
        *(["${program}", "fit", "--allow_classes", "os", "--config", "${args_json_file}"], [None, "fit", 5]),
        *(["${program}", "fit", "--config", "${args_json_file}", "--model", "model.yaml"], ["rm", "fit", "${args}"]),
    ],
    "early_terminate": ["hyperband", {"type": "median"}, {"type": "hyperband"}, {"type": "hyperband", "min_iter": 0}],
    "run_cap": [0, -1, "many", 1.5],
    "colour": ["red"],
    "": [1],
}
PARAMETERS: list[Any] = [
    *({"min": 1}, {"min": 2, "max": 1}, {"min": "a", "max": "b"}, {"min": 1, "max": 1}, {"values": 5}, {"values": {}}),
    *({"distribution": "normal", "mu": 0, "sigma": 1}, {"distribution": "other"}, {"distribution": 7, "min": 1}, 5),
    *(
        {"distribution": "log_uniform_values", "min": 0, "max": 1},
        {"distribution": "q_uniform", "min": 0, "max": 1, "q": 0},
    ),
    *({"distribution": "int_uniform", "min": 0.5, "max": 3}, {"value": 1, "values": [1]}, {"parameters": {"a": 1}}),
    *(
        {"distribution": "uniform", "min": float("nan"), "max": 1},
        {"distribution": "uniform", "min": 0, "max": float("inf")},
    ),
    *({"distribution": "log_uniform", "min": 0, "max": 9999}, {"min": -(10**400), "max": 1}, {"values": [1], "min": 1}),
    {"parameters": {"b": {"parameters": {}}}},
]


def changed() -> Iterator[Mutation]:
    for key, values in CHANGES.items():
        for value in values:
            yield Mutation(f"{key}: {'missing' if value is GONE else repr(value)[:60]}", _with(key, value))
    for value in PARAMETERS:
        yield Mutation(f"a parameter: {value!r:.70}", _with("parameters", {"model.lr": value}))


def _with(key: str, value: Any) -> Any:
    def make(folder: Path, rng: Random) -> list[str]:
        path = folder / "sweep.yaml"
        content = yaml.safe_load(path.read_text()) | {key: value}
        if value is GONE:
            del content[key]
        path.write_text(yaml.safe_dump(content))
        return LINE

    return make


def no_yaml() -> Iterator[Mutation]:
    for name, text in NO_YAML.items():
        for local in (True, False):

            def make(folder: Path, rng: Random, text: str | bytes = text, local: bool = local) -> list[str]:
                (folder / "sweep.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
                return LINE if local else ["sweep", "sweep.yaml", "--dry_run"]

            yield Mutation(f"{name}{'' if local else ', for W&B'}", make)
    for number in range(8):

        def cut(folder: Path, rng: Random) -> list[str]:
            path = folder / "sweep.yaml"
            text = path.read_text()
            path.write_text(text[: rng.randint(1, text.index("command") - 1)])
            return LINE

        yield Mutation(f"cut {number}", cut)


CATEGORIES = {"sweep files": changed, "sweep files that are no YAML": no_yaml}
