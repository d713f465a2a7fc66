"""Methods with options, as benchmarks name them: ``da3:keep=0.6,gradient=skip-path``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from da3.runtime.training.config import BACKBONE_PRECISIONS, GRADIENTS, KEEP_PRECISIONS, MemorySettings
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import METHODS, method


@dataclass(frozen=True)
class Variant:
    """A method, and the options that make it differ from the method's own defaults. ``label`` is how to show it."""

    label: str
    method: str
    keep: float = 1.0
    lean: MemorySettings = field(default_factory=MemorySettings)

    @property
    def folder(self) -> str:
        """The label as a folder's name: ``da3-keep-0.6``."""
        return re.sub(r"[:=,]", "-", self.label)


def _share(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 4096:
        raise ValueError
    return value


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError
        return text

    return read


# Name -> (how to read it, what it may be).
_OPTIONS: dict[str, tuple[Callable[[str], object], str]] = {
    "keep": (_share, "a number from 0 to 1"),
    "micro-batch": (_count, "a whole number of images, 0 to choose"),
    "keep-precision": (_one_of(KEEP_PRECISIONS), " or ".join(KEEP_PRECISIONS)),
    "backbone-precision": (_one_of(BACKBONE_PRECISIONS), " or ".join(BACKBONE_PRECISIONS)),
    "gradient": (_one_of(GRADIENTS), " or ".join(GRADIENTS)),
}


def options_of(name: str) -> list[str]:
    """Which options mean something to the method called ``name``."""
    if name == "da3":
        return list(_OPTIONS)
    return ["micro-batch"] if METHODS[name].sliceable else []


def parse(words: Sequence[str], shared: Mapping[str, object] | None = None) -> list[Variant]:
    """Variants written as comma lists, in one word or several; none at all is every method as it is.

    In ``finetune,da3:keep=0.6,gradient=exact,linear`` the options follow their method. ``shared`` holds values by
    option for those that a variant does not set itself, where they mean something to its method; None is "not
    given". Raises TrainingError naming what is wrong.
    """
    variants = [_variant(text, shared or {}) for text in (_split(words) or list(METHODS))]
    labels = [v.label for v in variants]
    for label in labels:
        if labels.count(label) > 1:
            raise TrainingError(f"--methods names {label} twice")
    return variants


def _split(words: Sequence[str]) -> list[str]:
    """One text per variant: a piece with = but no method before it belongs to the variant before it."""
    found: list[str] = []
    for word in words:
        for piece in (p.strip() for p in word.split(",")):
            if not piece:
                raise TrainingError(f"--methods {word!r}: write names with a comma between, such as finetune,da3")
            if "=" in piece.split(":")[0]:
                if not found or ":" not in found[-1]:
                    raise TrainingError(f"--methods {word!r}: {piece} needs a method before it, such as da3:{piece}")
                found[-1] += f",{piece}"
            else:
                found.append(piece)
    return found


def _variant(text: str, shared: Mapping[str, object]) -> Variant:
    name, colon, rest = text.partition(":")
    method(name)
    known = options_of(name)
    values = {key: value for key, value in shared.items() if value is not None and key in known}
    given: dict[str, str] = {}
    for piece in rest.split(",") if colon else []:
        key, equals, value = (part.strip() for part in piece.partition("="))
        key = key.replace("_", "-")
        if key not in known:
            takes = f"takes {', '.join(known)}" if known else "takes no options"
            raise TrainingError(f"--methods {text}: {name} has no option {key!r}; it {takes}")
        if key in given:
            raise TrainingError(f"--methods {text}: {key} is given twice")
        read, kind = _OPTIONS[key]
        try:
            values[key] = read(value) if equals else read("")
        except ValueError as error:
            raise TrainingError(f"--methods {text}: {key} must be {kind}") from error
        given[key] = value
    label = name + (":" if given else "") + ",".join(f"{k}={v}" for k, v in given.items())
    levers = {key.replace("-", "_"): value for key, value in values.items() if key != "keep"}
    return Variant(label, name, float(values.get("keep", 1.0)), MemorySettings(**levers))  # type: ignore[arg-type]


def check_shared(shared: Mapping[str, object]) -> None:
    """Raise TrainingError naming the first value of ``parse``'s ``shared`` that makes no sense."""
    for key, value in shared.items():
        if value is not None:
            read, kind = _OPTIONS[key]
            try:
                read(str(value))
            except ValueError as error:
                raise TrainingError(f"--{key} {value}: must be {kind}") from error
