"""What one has to know about a network, besides its weights, to use it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from segdcn import __version__
from segdcn.errors import InvalidDataError


@dataclass(frozen=True)
class Description:
    """Travels with every exported network, as JSON under the names of these attributes.

    Attributes:
        class_names: N names, in the order of the logits.
        palette: N colours [r, g, b] in 0..255, or None.
        mean: Channel means (R, G, B) that are subtracted from values in 0..1.
        std: Channel standard deviations to divide by.
        size_divisor: Height and width that the network takes are multiples of it.
        config: What `SegmentationTask` is built from.
        weights_sha256: `fingerprint` of the trained network.
        weights_dtype: How the weights are stored: float32, float16 or bfloat16; computed with in float32.
        size_minimum: Height and width are at least this.
        device: What the network was compiled for; cpu where it was not.
        segdcn_version: Of the segdcn that wrote it.
    """

    class_names: list[str]
    palette: list[list[int]] | None
    mean: list[float]
    std: list[float]
    size_divisor: int
    config: dict[str, Any]
    weights_sha256: str
    weights_dtype: str = "float32"
    size_minimum: int = 1
    device: str = "cpu"
    segdcn_version: str = __version__

    def texts(self) -> dict[str, str]:
        """Give each attribute as JSON, for formats whose metadata are texts."""
        return {name: json.dumps(value) for name, value in asdict(self).items()}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], path: object) -> Self:
        """Read what `texts` gave, from metadata that may hold more.

        Raises:
            InvalidDataError: Something is missing or not what it should be; the message names `path`.
        """
        known = {field.name: texts[field.name] for field in fields(cls) if field.name in texts}
        try:
            return cls.from_values({name: json.loads(text) for name, text in known.items()}, path)
        except (ValueError, RecursionError) as error:
            if isinstance(error, InvalidDataError):
                raise
            raise InvalidDataError(f"{path}: its description is damaged: {error}") from error

    @classmethod
    def from_values(cls, values: Mapping[str, Any], path: object) -> Self:
        """Check values that were read from a file.

        Raises:
            InvalidDataError: As `from_texts`.
        """
        names = {field.name for field in fields(cls)}
        required = {"class_names", "palette", "mean", "std", "size_divisor", "config", "weights_sha256"}
        if missing := sorted(required - values.keys()):
            raise InvalidDataError(
                f"{path} does not say {', '.join(missing)}: it was not written by segdcn export, or was changed since"
            )
        found = cls(**{name: value for name, value in values.items() if name in names})
        for name, right in found._checks().items():
            if not right:
                raise InvalidDataError(f"{path}: {name} is {getattr(found, name)!r}, which cannot be")
        return found

    def _checks(self) -> dict[str, bool]:
        names, palette = self.class_names, self.palette
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) and name.isprintable() for name in names)
        ):
            return {"class_names": False}
        return {
            "palette": palette is None
            or (isinstance(palette, list) and len(palette) == len(names) and all(map(_is_colour, palette))),
            "mean": _are_numbers(self.mean, 3),
            "std": _are_numbers(self.std, 3) and min(self.std) > 0,
            "size_divisor": isinstance(self.size_divisor, int) and self.size_divisor > 0,
            "config": isinstance(self.config, dict) and self.config.get("num_classes") == len(names),
            "weights_sha256": isinstance(self.weights_sha256, str),
            "weights_dtype": self.weights_dtype in ("float32", "float16", "bfloat16"),
            "size_minimum": isinstance(self.size_minimum, int),
            "device": self.device in ("cpu", "cuda"),
        }


def _is_colour(value: Any) -> bool:
    return _are_numbers(value, 3) and all(isinstance(part, int) and 0 <= part <= 255 for part in value)


def _are_numbers(values: Any, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )
