"""Which code it is that runs."""

import subprocess
from pathlib import Path
from typing import Any

from segdcn import __version__

PACKAGE = Path(__file__).resolve().parent


def code_version(package: Path = PACKAGE) -> dict[str, Any]:
    """Say which segdcn this is, and of which git commit where it runs from a checkout.

    Args:
        package: Its folder.

    Returns:
        `segdcn`, the version; from a checkout also `git_commit`, and `git_changes`: whether a file that git
        knows differs from the commit.
    """
    version: dict[str, Any] = {"segdcn": __version__}
    # A package installed below a repository of something else is none of its files.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return version
    commit = _git(package, "rev-parse", "HEAD")
    if commit is None:
        return version
    return version | {"git_commit": commit, "git_changes": _git(package, "diff", "--quiet", "HEAD") is None}


def told(version: dict[str, Any]) -> str:
    """Write a version as words: `segdcn 0.1.0, commit 1a2b3c4d5e6f and changes`."""
    text = f"segdcn {version['segdcn']}"
    if "git_commit" in version:
        text += f", commit {version['git_commit'][:12]}" + " and changes" * version["git_changes"]
    return text


def _git(folder: Path, *words: str) -> str | None:
    """Give what a git command prints, or None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
