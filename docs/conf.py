"""How Sphinx builds these pages: `python -m sphinx -W --keep-going -n docs build/docs`, a step of scripts/test.

Nothing is fetched, neither when the pages are built nor when they are read.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

from segdcn import __version__  # noqa: E402

project = "segdcn"
author = "the authors of segdcn"
release = version = __version__
smartquotes = False  # --config is two hyphens
html_title = f"segdcn {version}"
html_theme = "furo"
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages", "docstrings"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_ext"]
highlight_language = "none"  # indented blocks are formulas and listings

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4

default_role = "name"  # of docstrings: `a name` is code, and a link where it is documented
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_use_ivar = True
napoleon_custom_sections = ["Shape"]
# Types of others; names of segdcn are checked in docstrings.py.
nitpick_ignore_regex = [("py:.*", r"(?!segdcn\b).*")]
