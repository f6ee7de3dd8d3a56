"""How two sets of weights differ in names and shapes."""

from collections.abc import Mapping

from torch import Tensor


def difference(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], whose: str) -> tuple[int, str]:
    """Count what is missing, unexpected or of another shape, and say it in a sentence.

    Args:
        given: Weights from a file.
        wanted: Those of a network.
        whose: That network, in words.

    Returns:
        How many differ, and `2 weights are not as in resnet18, the first is fc.bias ((9,) in the file, unknown there)`.
    """
    theirs = {name: tuple(value.shape) for name, value in given.items()}
    ours = {name: tuple(value.shape) for name, value in wanted.items()}
    different = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
    if not different:
        return 0, ""
    first = different[0]
    shapes = f"{theirs.get(first, 'missing')} in the file, {ours.get(first, 'unknown')} there"
    count = "1 weight is" if len(different) == 1 else f"{len(different)} weights are"
    return len(different), f"{count} not as in {whose}, the first is {first} ({shapes})"
