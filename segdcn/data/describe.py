"""From a data YAML to its data set, for verbs that are not training."""

import importlib
from pathlib import Path
from typing import Any

from segdcn import class_paths
from segdcn.data.base import SegmentationData
from segdcn.errors import MissingFileError, UserError, UserValueError
from segdcn.refusals import one_line_refusals, refuse_nulls
from segdcn.yaml_files import read_yaml


def load_data(description: str, settings: dict[str, Any] | None = None, **overrides: Any) -> SegmentationData:
    """Build the data set that a YAML such as configs/data/voc.yaml describes.

    Args:
        description: The file: `class_path` and `init_args`.
        settings: Settings that win over the file's.
        overrides: Settings that win over both, such as `root`; None leaves one as it is.

    Raises:
        MissingFileError: There is no such file.
        UserValueError: It does not describe a data set.
    """
    path = Path(description)
    if not path.is_file():
        raise MissingFileError(f"{path} does not exist; expected a YAML such as configs/data/voc.yaml")
    content = read_yaml(path)
    given = {name: value for name, value in overrides.items() if value is not None}
    return build_data(content, path, {**(settings or {}), **given})


def build_data(content: Any, path: Path, settings: dict[str, Any]) -> SegmentationData:
    """Build the data set that the content of a YAML describes; errors are `load_data`'s.

    Args:
        content: What the YAML holds.
        path: Where that is from; for messages.
        settings: Settings that win over it.
    """
    init_args = (content.get("init_args") or {}) if isinstance(content, dict) else None
    if not isinstance(init_args, dict) or not isinstance(content.get("class_path"), str):
        raise UserValueError(
            f"{path} describes no data set; expected class_path and init_args, as in configs/data/voc.yaml"
        )
    if unknown := sorted(map(str, content.keys() - {"class_path", "init_args"})):
        raise UserValueError(f"{path} has {unknown[0]} beside class_path and init_args; settings go below init_args")
    kind = data_class(content["class_path"], path)

    # Imported here: half a second that reading pictures need not take.
    from jsonargparse import ArgumentParser

    # As `fit` does it, so that both take and refuse the same values.
    class_paths.restrict_parser()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "data", fail_untyped=False)
    try:
        with one_line_refusals(parser):
            checked = parser.parse_object({"data": {**init_args, **settings}})
    except UserError as error:
        raise UserValueError(f"{path}: {error}") from error
    refuse_nulls(kind, checked.data.as_dict(), f"{path}: data.")
    return kind(**checked.data.as_dict())


def data_class(class_path: str, path: object) -> type[SegmentationData]:
    """Import the class of a data set; errors are `load_data`'s and name `path`."""
    if not class_paths.is_allowed(class_path):
        raise UserValueError(f"{path}: {class_paths.refusal(class_path)}")
    module, _, name = class_path.rpartition(".")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserValueError(f"{path}: class_path is {class_path!r}, which cannot be imported ({error})") from error
    if not (isinstance(kind, type) and issubclass(kind, SegmentationData)) or kind is SegmentationData:
        raise UserValueError(
            f"{path}: class_path is {class_path!r}; expected the class of a data set, such as segdcn.data.Folder"
        )
    return kind
