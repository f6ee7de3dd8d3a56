import shutil
import subprocess

import pytest

from segdcn import __version__
from segdcn.code_version import code_version, told


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    done = subprocess.run(["git", "-C", folder, *who, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A package in a git repository of its own."""
    if shutil.which("git") is None:
        pytest.fail("the tests need git")
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package/__init__.py")
    git(tmp_path, "commit", "-q", "-m", "first")
    return package


def test_a_checkout_names_its_commit_and_whether_files_differ(checkout):
    commit = git(checkout, "rev-parse", "HEAD")
    assert code_version(checkout) == {"segdcn": __version__, "git_commit": commit, "git_changes": False}
    (checkout / "new.py").touch()  # git does not know it
    assert not code_version(checkout)["git_changes"]
    (checkout / "__init__.py").write_text("a = 2\n")
    assert code_version(checkout)["git_changes"]
    assert told(code_version(checkout)) == f"segdcn {__version__}, commit {commit[:12]} and changes"


def test_an_installed_package_does_not_name_the_commit_of_what_it_lies_in(checkout):
    installed = checkout.parent / "site-packages" / "segdcn"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert code_version(installed) == {"segdcn": __version__}
    assert told(code_version(installed)) == f"segdcn {__version__}"


def test_without_git_the_version_is_all(checkout, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert code_version(checkout) == {"segdcn": __version__}
