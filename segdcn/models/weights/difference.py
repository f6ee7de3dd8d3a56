"""How weights differ from those of a network, in names and shapes."""

from collections.abc import Mapping, Sequence

from torch import Tensor


def difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[int, str]:
    """Count the weights that are missing, unexpected or of another shape, and name the first of each.

    Args:
        given: Weights from a file.
        wanted: Those of a network.

    Returns:
        How many, and such as `2 missing (bn1.bias, bn1.weight), 1 unexpected (fc.bias)`.
    """
    missing, unexpected = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    reshaped = [
        f"{name} {tuple(given[name].shape)}, not {tuple(wanted[name].shape)}"
        for name in sorted(given.keys() & wanted.keys())
        if given[name].shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    said = ", ".join(f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names)
    return sum(map(len, kinds.values())), said


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
