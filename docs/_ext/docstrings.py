"""Docstrings as this project writes them, made what Sphinx takes them to be.

* `a name` in single backticks is code, and a link where the name has an entry.
* A block set off by a blank line and indented is a listing.
* Names are documented where they are imported from (`segdcn.data.VOC`), and found under the
  name of the file that defines them too. A name of segdcn that does not exist is an error.
"""

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyXRefRole
from sphinx.environment import BuildEnvironment

LINK = PyXRefRole()


def name_role(role: str, rawtext: str, text: str, *rest: Any) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """Make a link to what `text` names where it can be a name, else code."""
    if re.fullmatch(r"[A-Za-z_][\w.]*", text):
        return LINK("py:obj", rawtext, text, *rest)
    return [nodes.literal(rawtext, text)], []


def mark_listings(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Put `::` in front of indented blocks; runs before napoleon, which would fill them."""
    marked: list[str] = []
    inside = False
    for line in lines:
        indented = line.startswith("    ")
        # What follows a heading such as Args: at once, without a blank line, is its own.
        if indented and not inside and marked and not marked[-1] and _left_of(marked) and not _in_section(marked):
            marked += ["::", ""]
            inside = True
        elif line and not indented:
            inside = False
        marked.append(line)
    lines[:] = marked


def _left_of(lines: list[str]) -> bool:
    """Tell whether the last line with text begins at the left."""
    return next((not line.startswith(" ") for line in reversed(lines) if line), False)


def _in_section(lines: list[str]) -> bool:
    return any(re.fullmatch(r"(Args|Attributes|Returns|Raises):", line) for line in lines)


def public_names(package: str) -> dict[str, str]:
    """Map where things are defined to where they are documented: segdcn.data.voc.VOC to segdcn.data.VOC."""
    module = getattr(importlib.import_module("segdcn"), package.partition(".")[2], None)
    found = {}
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            found[f"{thing.__module__}.{thing.__qualname__}"] = f"{package}.{name}"
    return found


def find_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Find what a name of segdcn means where Sphinx does not."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("segdcn."):
        return None
    public = public_names(".".join(target.split(".")[:2])).get(target)
    if public is not None:
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)
    return contnode if _exists(target) else None  # not documented, but there


def _exists(name: str) -> bool:
    """Tell whether a dotted name is a module or something in one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        try:
            for part in parts[length:]:
                thing = getattr(thing, part)
        except AttributeError:
            return False
        return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_role("name", name_role)
    app.connect("autodoc-process-docstring", mark_listings, priority=400)  # napoleon has 500
    app.connect("missing-reference", find_reference)
    return {"parallel_read_safe": True}
