"""Which checkpoint a run starts from, and which settings are its, the files' or the command line's."""

from collections.abc import Callable
from typing import Any

from segdcn.command_line import CommandLine
from segdcn.errors import UserValueError
from segdcn.run import CHECKPOINT_WORDS, Run, find_checkpoint

# The model's settings that also count when nothing is trained.
NETWORK_KEYS = {
    *("architecture", "encoder", "output_stride", "deform_layers", "modulated", "offset_groups"),
    *("dilation", "gradual_dilation"),
}


def find_start(verb: str, settings: Any) -> tuple[str | None, Run | None]:
    """Find the file that `--ckpt_path` means; that it is there and can be read is for who reads it.

    Returns:
        The file, None for a fit from the beginning, and the run that goes on in its own folder, if one does.

    Raises:
        UserValueError: The verb needs weights, or cannot take these.
        MissingFileError: No run has a checkpoint of that name.
    """
    path = settings.ckpt_path
    if path is None:
        if verb != "fit":
            raise UserValueError(f"{verb} needs weights: give --ckpt_path FILE, or 'best' or 'last' with --name")
        return None, None
    if path not in CHECKPOINT_WORDS:
        return path, None
    if verb == "fit" and path == "best":
        raise UserValueError("fit --ckpt_path best: training goes on from 'last'; name the file to go back")
    found = find_checkpoint(settings.runs_dir, settings.name, path)
    return str(found), Run(found.parents[1]) if verb == "fit" else None


def settings_to_take(
    verb: str, saved: dict[str, Any], known: dict[str, Any], line: CommandLine, say: Callable[[str], None]
) -> dict[str, Any]:
    """Choose what the checkpoint says of the model's settings.

    Lightning lets the checkpoint win over everything. Here flags win over the
    checkpoint and the checkpoint over files: a resumed run goes on as it was unless
    the command line says otherwise, and where a file is overruled a line says so. Only
    how to evaluate (`eval_...`) is taken from files first in `validate` and `test`.

    Args:
        verb: fit, validate or test.
        saved: The checkpoint's settings.
        known: The model's settings as files and flags have them.
        line: Tells files and flags apart.
        say: Prints a line; called for each setting of a file that is overruled.
    """
    taken = {key: value for key, value in saved.items() if key in known}
    from_files = line.model_keys_in_files()
    given = line.flags("model")
    if verb != "fit":
        # How to evaluate is no property of the weights: files win there too.
        given |= {key for key in from_files if key.startswith("eval_")}
    for key in given:
        taken.pop(key, None)
    taken["encoder_weights"] = None  # replaced by the checkpoint's, so never fetched, not even by a flag
    for key, value in taken.items():
        # Weights that an earlier start of this run computed.
        computed = key == "class_weights" and known[key] == "balanced"
        matters = (verb == "fit" and not computed) or key in NETWORK_KEYS
        if matters and key != "encoder_weights" and value != known[key] and key in from_files:
            say(f"model.{key}: {value} from the checkpoint, not {known[key]}; --model.{key} overrules it")
    return taken
