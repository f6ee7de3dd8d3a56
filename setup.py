"""Build the operator libraries along with the package; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "cuda"))

import build  # noqa: E402  (cuda/build.py)


class BuildLibraries(build_py):
    """Compile into segdcn/_lib first, so that the libraries are packaged as data."""

    def run(self) -> None:
        """Build, then collect the package."""
        build.build(ROOT / "segdcn" / "_lib", ROOT / "build")
        super().run()


class PlatformWheel(bdist_wheel):
    """One wheel per platform and none per Python: the libraries hold no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return py3-none-<platform>."""
        return ("py3", "none", super().get_tag()[2])


class BinaryDistribution(Distribution):
    """A distribution that is not pure Python, although it lists no extension modules."""

    def has_ext_modules(self) -> bool:
        """Say so."""
        return True


setup(distclass=BinaryDistribution, cmdclass={"build_py": BuildLibraries, "bdist_wheel": PlatformWheel})
