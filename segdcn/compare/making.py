"""From the command line to the plan of a comparison: every variant is parsed, checked and built once."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from segdcn.compare.plan import Plan, Start, flat
from segdcn.compare.variants import check_fit_arguments, variants
from segdcn.data.base import SegmentationData
from segdcn.errors import UserValueError
from segdcn.fingerprint import combined, tensor_lines
from segdcn.training import Rehearsal, rehearse


def make_plan(fit: Sequence[str], vary: Sequence[str], seeds: int, name: str | None, checkpoint: str) -> Plan:
    """Make a plan; what cannot work is refused before anything runs.

    Args:
        fit: Files and flags of `segdcn fit`.
        vary: As `segdcn.compare.variants.variants` takes it.
        seeds: How many.
        name: Of the comparison; None makes one.
        checkpoint: `last` or `best`.

    Raises:
        UserError: A variant cannot be trained, or two variants are one.
    """
    check_fit_arguments(fit)
    listed = variants(vary)
    settings: dict[str, Mapping[str, Any]] = {}
    weights: dict[str, dict[str, str]] = {}
    offsets_move: dict[str, bool] = {}
    data: dict[str, str] = {}
    for variant in listed:
        rehearsed = rehearse([*fit, *variant.flags()])
        _check_trainer(rehearsed.settings["trainer"])
        found = flat(rehearsed.settings)
        if same := next((other for other in settings if settings[other] == found), None):
            raise UserValueError(
                f"{same} and {variant.name} are one and the same: no setting that changes a result differs"
            )
        settings[variant.name] = found
        state = rehearsed.task.network.state_dict()
        weights[variant.name] = tensor_lines({key: value for key, value in state.items() if not _of_offsets(key)})
        offsets_move[variant.name] = any(bool(value.any()) for key, value in state.items() if _of_offsets(key))
        data[variant.name] = samples_fingerprint(rehearsed.data)
        name = name or _made_name(rehearsed, variant.values)
    assert name is not None
    common = set.intersection(*(set(lines) for lines in weights.values()))
    starts = {
        variant: Start(
            weights=combined(lines.values()),
            shared=combined(line for key, line in lines.items() if key in common),
            offsets_move=offsets_move[variant],
        )
        for variant, lines in weights.items()
    }
    return Plan(name, list(fit), listed, list(range(seeds)), checkpoint, settings, starts, data)


def samples_fingerprint(data: SegmentationData) -> str:
    """Hash which samples are trained on and validated on: their names, and the sizes of their files in bytes."""
    kinds = (data.train_dataset().samples, data.eval_dataset(data.val_split).samples)
    lines = [
        f"{number} {sample.name} {sample.image.stat().st_size} {sample.labels.stat().st_size}"
        for number, samples in enumerate(kinds)
        for sample in samples
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check_trainer(settings: Mapping[str, Any]) -> None:
    for key, whole in (("fast_dev_run", (False, 0, None)), ("enable_checkpointing", (True, None))):
        if settings.get(key) not in whole:
            raise UserValueError(
                f"trainer.{key} is {settings[key]}; a comparison needs whole runs and their checkpoints"
            )


def _of_offsets(key: str) -> bool:
    return ".offset_conv." in key


def _made_name(rehearsed: Rehearsal, varied: Mapping[str, Any]) -> str:
    data = type(rehearsed.data).__name__.lower()
    model = "-".join(rehearsed.settings["model"][key] for key in ("architecture", "encoder"))
    return f"{data}-{model}-{'+'.join(key.rpartition('.')[2] for key in varied)}"
