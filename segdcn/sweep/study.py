"""The trials of a local sweep, shared by any number of workers.

Optuna keeps them in a journal file and draws what random and Bayesian sweeps try next. Which worker
does which trial is told by `Claims`. A trial is taken under a lock, so none is done twice; it stays
"running" in the journal until somebody finishes it, so none is lost.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from segdcn.errors import UserValueError
from segdcn.sweep import drawing
from segdcn.sweep.claims import LEASE, Claims, locked
from segdcn.sweep.file import SweepFile
from segdcn.sweep.parameters import Choice
from segdcn.sweep.store import keep_file, open_journal

Outcome = Literal["finished", "stopped early", "failed"]
STATES: dict[Outcome, TrialState] = {
    "finished": TrialState.COMPLETE,
    "stopped early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True)
class Trial:
    """A trial that this worker does.

    Attributes:
        number: Counted from 0 over the whole sweep.
        values: By parameter name.
        goes_on: Another worker, or an earlier start of this one, has begun with it.
    """

    number: int
    values: dict[str, Any]
    goes_on: bool


@dataclass(frozen=True)
class Row:
    """What is known of a trial.

    Attributes:
        number: As in `Trial`.
        state: An `Outcome`, or "running".
        values: By parameter name.
        score: Best value of the metric so far; None if there is none.
        validations: How many there were.
        facts: What the worker noted: seconds, run folder, reason of a failure.
    """

    number: int
    state: str
    values: dict[str, Any]
    score: float | None
    validations: int
    facts: dict[str, Any] = field(default_factory=dict)


class Study:
    """A sweep's trials in its folder.

    Args:
        sweep: What is tried.
        folder: The sweep's folder, made if there is none. One that holds the same sweep is gone
            on with. None keeps everything in memory, for a look at what would be tried.
        count: Trials in all; None takes the file's run_cap, or all of a grid.
        seed: Of what is drawn; with it, trial n of a random sweep has the same values whoever does it.
        lease: Seconds after which a worker that gives no sign of life is taken for dead.

    Raises:
        UserValueError: The folder holds something else, or the sweep has no end.
        InvalidDataError: The journal is damaged.
    """

    def __init__(
        self, sweep: SweepFile, folder: Path | None, count: int | None = None, seed: int = 0, lease: float = LEASE
    ) -> None:
        self.sweep = sweep
        self._grid = list(sweep.grid()) if sweep.method == "grid" else []
        self.total = _total(sweep, count, len(self._grid))
        self._seed = seed
        self._folder = folder
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage: BaseStorage = InMemoryStorage()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / "sweep"):
                keep_file(folder, sweep)
            self.claims = Claims(folder / "claims", lease)
            storage = open_journal(folder / "study.journal")
        self._study = optuna.create_study(
            storage=storage,
            study_name="sweep",  # one to a folder, also if the file is renamed
            direction="maximize" if sweep.maximize else "minimize",
            load_if_exists=True,
            pruner=drawing.pruner(sweep),
        )

    # One trial

    def take(self) -> Trial | None:
        """Take the next trial: one that was left unfinished, or else a new one; None if there is none."""
        assert self._folder is not None
        with locked(self._folder / "sweep"):
            for unfinished in self._all(TrialState.RUNNING):
                state = self.claims.state(unfinished.number)
                if state == "dead" and unfinished.user_attrs.get("deaths", 0) > 0:
                    # What kills its worker twice would kill the next one too.
                    self._note(unfinished.number, reason="its worker died twice")
                    self._study.tell(unfinished.number, state=TrialState.FAIL)
                    self.claims.release(unfinished.number)
                elif state != "held":
                    if state == "dead":
                        self._note(unfinished.number, deaths=1)
                    self.claims.take(unfinished.number)
                    return Trial(unfinished.number, self._values(unfinished.number), goes_on=True)
            number = self._ask()
            if number is None:
                return None
            self.claims.take(number)
            return Trial(number, self._values(number), goes_on=False)

    def preview(self) -> Trial | None:
        """Draw the next trial without doing it."""
        number = self._ask()
        return None if number is None else Trial(number, self._values(number), goes_on=False)

    def beat(self, trial: Trial, child: int | None = None) -> bool:
        """Give a sign of life; False if another worker has taken the trial meanwhile."""
        return self.claims.beat(trial.number, child)

    def report(self, trial: Trial, values: list[float]) -> bool:
        """Note what was measured so far, by validation; True if the trial should stop early."""
        live = self._live(trial.number)
        known = self._frozen(trial.number).intermediate_values
        stop = False
        for step in range(len(known) + 1, len(values) + 1):
            live.report(self.best(values[:step]), step)
            stop = stop or live.should_prune()
        return stop

    def best(self, values: Iterable[float]) -> float:
        """Give the best of some values of the metric."""
        return max(values) if self.sweep.maximize else min(values)

    def finish(self, trial: Trial, outcome: Outcome, score: float | None = None, **facts: Any) -> bool:
        """Close a trial; False, and nothing is noted, if another worker has taken it meanwhile."""
        assert self._folder is not None
        with locked(self._folder / "sweep"):
            if not self.claims.beat(trial.number):
                return False
            self._note(trial.number, **facts)
            self._study.tell(trial.number, score if outcome == "finished" else None, state=STATES[outcome])
            self.claims.release(trial.number)
        return True

    def give_up(self, trial: Trial, **facts: Any) -> None:
        """Leave a trial for whoever comes next, who goes on with it."""
        if self.claims.beat(trial.number):
            self._note(trial.number, **facts)
            self.claims.release(trial.number)

    # All trials

    def rows(self) -> list[Row]:
        """Tell all trials, in the order in which they were begun."""
        told = {state: outcome for outcome, state in STATES.items()}
        rows = []
        for frozen in self._all(TrialState.RUNNING, *told):
            reported = list(frozen.intermediate_values.values())
            score = frozen.value if frozen.value is not None else (reported[-1] if reported else None)
            rows.append(
                Row(
                    number=frozen.number,
                    state=told.get(frozen.state, "running"),
                    values=self._decode(frozen.params),
                    score=score,
                    validations=len(reported),
                    facts=frozen.user_attrs,
                )
            )
        return rows

    def running(self) -> list[int]:
        """Give the numbers of the trials that somebody works on, or has left unfinished."""
        return [frozen.number for frozen in self._all(TrialState.RUNNING)]

    # Inside

    def _ask(self) -> int | None:
        """Begin the next new trial, with all its values in the journal; None if there are enough."""
        begun = len(self._all())
        waiting = bool(self._all(TrialState.WAITING))  # a worker died between enqueue and ask
        if begun >= self.total and not waiting:
            return None
        if self._grid and not waiting:
            self._study.enqueue_trial(self._encode(self._grid[begun]))
        self._study.sampler = drawing.sampler(self.sweep, self._seed, begun)
        return self._study.ask().number

    def _values(self, number: int) -> dict[str, Any]:
        """Give the values of a trial, drawing those that a dead worker had not drawn yet."""
        live = self._live(number)
        for parameter in self.sweep.parameters:
            drawing.suggest(live, parameter)
        return self._decode(self._frozen(number).params)

    def _decode(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Turn Optuna's parameters into values of the types that the file has."""
        values = {}
        for parameter in self.sweep.parameters:
            if parameter.is_constant:
                assert isinstance(parameter.space, Choice)
                values[parameter.name] = parameter.space.values[0]
            elif parameter.name in drawn:
                value = drawn[parameter.name]
                values[parameter.name] = json.loads(value) if isinstance(parameter.space, Choice) else value
        return values

    def _encode(self, values: Mapping[str, Any]) -> dict[str, Any]:
        varied = [parameter for parameter in self.sweep.parameters if not parameter.is_constant]
        return {
            parameter.name: json.dumps(values[parameter.name])
            if isinstance(parameter.space, Choice)
            else values[parameter.name]
            for parameter in varied
        }

    def _all(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def _frozen(self, number: int) -> FrozenTrial:
        return self._all()[number]

    def _live(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._frozen(number)._trial_id)

    def _note(self, number: int, **facts: Any) -> None:
        live = self._live(number)
        for name, value in facts.items():
            live.set_user_attr(name, value)


def _total(sweep: SweepFile, count: int | None, points: int) -> int:
    """Say how many trials there shall be, of a grid with so many points or of a sweep without an end."""
    wanted = count or sweep.run_cap
    if sweep.method == "grid":
        return min(points, wanted or points)
    if wanted is None:
        raise UserValueError(f"a {sweep.method} sweep has no end of its own; give --count, or run_cap in the file")
    return wanted
