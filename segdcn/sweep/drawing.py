"""How the values of a trial are drawn, and when a trial is stopped early: Optuna's part."""

import json
import warnings

import optuna
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from segdcn.sweep.file import SweepFile
from segdcn.sweep.parameters import Choice, Parameter


def pruner(sweep: SweepFile) -> BasePruner:
    """Make what stops trials early: one bracket of successive halving, which W&B's hyperband is."""
    if sweep.early is None:
        return NopPruner()
    return SuccessiveHalvingPruner(min_resource=sweep.early.first, reduction_factor=sweep.early.eta)


def sampler(sweep: SweepFile, seed: int, number: int) -> BaseSampler:
    """Make what draws trial `number`: a new one for each, so it does not matter which worker draws."""
    own = (seed * 1_000_003 + number) % 2**32  # NumPy takes no others
    return TPESampler(seed=own) if sweep.method == "bayes" else RandomSampler(seed=own)


def suggest(live: optuna.Trial, parameter: Parameter) -> None:
    """Give a trial its value of a parameter, unless it has one."""
    space = parameter.space
    if isinstance(space, Choice):
        if not parameter.is_constant:
            # As JSON: Optuna compares values with ==, and True == 1; lists it does not take.
            live.suggest_categorical(parameter.name, [json.dumps(value) for value in space.values])
    elif space.whole:
        live.suggest_int(parameter.name, int(space.low), int(space.high), step=int(space.step or 1))
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The distribution is specified by")  # rounding of max - min by q
            live.suggest_float(parameter.name, space.low, space.high, step=space.step, log=space.log)
