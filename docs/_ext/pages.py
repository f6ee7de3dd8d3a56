"""Pages whose text is elsewhere: in files of the repository, or in the code.

Such a page is a stub in docs/ with a title and a line for readers of the sources; here it gets
the rest.
"""

import pkgutil
import posixpath
import re
from pathlib import Path, PurePosixPath

from reference import settings_page, verbs_page
from sphinx.application import Sphinx
from sphinx.util import logging

import segdcn

ROOT = Path(__file__).resolve().parents[2]
# Files of the repository that are pages too.
FILES = {"contributing": "CONTRIBUTING.md", "kernels_in_cpp": "cuda/README.md", "changelog": "CHANGELOG.md"}
LINK = re.compile(r"\[([^]\n]+)\]\(([\w./-]+\.\w+)(#[^)]*)?\)")  # to a file, not to a server
PYTHON = "reference/python/"
MEMBERS = """
```{{eval-rst}}
.. automodule:: {module}
   :members:
   :show-inheritance:
```
"""


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Give a stub its text."""
    if docname in FILES:
        app.env.note_dependency(ROOT / FILES[docname])
        source[0] = (ROOT / FILES[docname]).read_text()
    elif docname == "reference/verbs":
        source[0] += verbs_page()
    elif docname == "reference/settings":
        source[0] += settings_page()
    elif docname == "index":
        listed = re.findall(r"^[\w/]+$", source[0], re.MULTILINE)
        found = {name for name in app.env.found_docs if not name.startswith("reference/")}
        others = sorted(found - {*listed, "index"})
        source[0] = source[0].replace("<all other pages>", "\n".join(others))
    elif docname.startswith(PYTHON):
        source[0] += MEMBERS.format(module="segdcn." + docname.removeprefix(PYTHON))
    place = PurePosixPath(FILES.get(docname, f"docs/{docname}.md"))
    source[0] = LINK.sub(lambda link: _relinked(link, place, docname), source[0])


def _relinked(link: re.Match[str], place: PurePosixPath, docname: str) -> str:
    """Turn a link that holds in the repository into one that holds among the pages."""
    text, path, anchor = link[1], link[2], link[3] or ""
    target = posixpath.normpath(place.parent / path)
    page = {file: f"docs/{name}.md" for name, file in FILES.items()} | {"README.md": "docs/index.md"}
    target = page.get(target, target)
    if not target.startswith("docs/"):
        return text  # a file that is no page
    up = "../" * docname.count("/")
    return f"[{text}]({up}{target.removeprefix('docs/')}{anchor})"


def check_modules(app: Sphinx) -> None:
    """Warn of a public package that has no page."""
    for module in pkgutil.iter_modules(segdcn.__path__):
        if not module.ispkg or (Path(app.srcdir) / f"{PYTHON}{module.name}.md").is_file():
            continue
        if "__all__" in (Path(segdcn.__path__[0]) / module.name / "__init__.py").read_text():
            logging.getLogger(__name__).warning(f"segdcn.{module.name} has no page: add docs/{PYTHON}{module.name}.md")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", check_modules)
    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
