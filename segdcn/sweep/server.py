"""A sweep on Weights & Biases: the server draws the trials, an agent here runs them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from segdcn.errors import UserError
from segdcn.sweep.command import search_path


def register(config: dict[str, Any]) -> str:
    """Register a sweep, as `wandb sweep` does.

    Returns:
        What `wandb agent` takes: entity/project/id, without what is not known.

    Raises:
        UserError: Nobody is logged in, or the server refuses.
    """
    # Imported here: Lightning, which comes with the loggers, takes seconds.
    from segdcn.loggers import has_wandb_key

    if not has_wandb_key():
        raise UserError("nobody is logged in to Weights & Biases: run `wandb login`, or sweep without it: --local")
    import wandb

    project = os.environ.get("WANDB_PROJECT") or config.get("project") or "segdcn"
    entity = os.environ.get("WANDB_ENTITY") or config.get("entity")
    try:
        sweep_id = wandb.sweep(config, entity=entity, project=project)
    except wandb.errors.Error as error:
        raise UserError(f"Weights & Biases does not take the sweep: {error}; --local needs no server") from error
    return "/".join(filter(None, (entity, project, sweep_id)))


def run_agent(sweep: str, count: int | None, console: Console) -> int:
    """Run W&B's agent on a registered sweep until it ends.

    Args:
        sweep: From `register`.
        count: Trials that this agent does; None is as many as there are.
        console: Where to say how others join.

    Returns:
        The agent's exit code.
    """
    console.print(f"on other machines: wandb agent {sweep}", highlight=False, soft_wrap=True)
    command = [sys.executable, "-m", "wandb", "agent", *(["--count", str(count)] if count else []), sweep]
    agent = subprocess.Popen(command, env=os.environ | {"PATH": search_path()})
    while True:
        try:
            return agent.wait()
        except KeyboardInterrupt:
            continue  # the terminal has told the agent too; it knows what to do


def described(path: Path, config: dict[str, Any]) -> str:
    """Say what would be registered."""
    return f"would register {path} ({config['method']}, {len(config['parameters'])} parameters) and run an agent"
