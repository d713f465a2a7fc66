"""Methods with options, as benchmarks name them: ``da3:keep=0.6,gradient=skip-path``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from da3.runtime.training import BACKBONE_PRECISIONS, GRADIENTS, KEEP_PRECISIONS, MemorySettings
from da3.toolchain.errors import TrainingError
from da3.toolchain.methods import METHODS, method


@dataclass(frozen=True)
class Variant:
    """A method with its options. ``label``: as the user wrote it. ``flops_budget``: share of the block FLOPs to run."""

    label: str
    method: str
    flops_budget: float = 1.0
    memory: MemorySettings = field(default_factory=MemorySettings)

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


class _Option(NamedTuple):
    """``read`` turns the user's text into a value, and raises ValueError for what is not ``kind``."""

    read: Callable[[str], object]
    kind: str


_FLOPS_BUDGET = "keep"  # the one option that is no memory setting
_OPTIONS = {
    _FLOPS_BUDGET: _Option(_share, "a number from 0 to 1"),
    "micro-batch": _Option(_count, "a whole number of images, 0 to choose"),
    "keep-precision": _Option(_one_of(KEEP_PRECISIONS), " or ".join(KEEP_PRECISIONS)),
    "backbone-precision": _Option(_one_of(BACKBONE_PRECISIONS), " or ".join(BACKBONE_PRECISIONS)),
    "gradient": _Option(_one_of(GRADIENTS), " or ".join(GRADIENTS)),
}


def options_of(name: str) -> list[str]:
    """The options that mean something to the method called ``name``."""
    if name == "da3":
        return list(_OPTIONS)
    return ["micro-batch"] if METHODS[name].sliceable else []


def memory_settings_of(name: str) -> list[str]:
    """The fields of MemorySettings that mean something to the method called ``name``."""
    return [option.replace("-", "_") for option in options_of(name) if option != _FLOPS_BUDGET]


def parse(words: Sequence[str], shared: Mapping[str, object] | None = None) -> list[Variant]:
    """Variants written as comma lists, in one word or several; without a word, every method as it is.

    In ``finetune,da3:keep=0.6,gradient=exact,linear`` the options follow their method. ``shared`` gives values by
    option: a variant takes those that it does not set itself and that mean something to its method; None is "not
    given". Raises TrainingError naming what is wrong.
    """
    variants = [_variant(text, shared or {}) for text in (_split(words) or list(METHODS))]
    labels = [v.label for v in variants]
    for label in labels:
        if labels.count(label) > 1:
            raise TrainingError(f"--methods names {label} twice")
    return variants


def _split(words: Sequence[str]) -> list[str]:
    """One text for each variant: a piece with = but no method before it belongs to the variant before it."""
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
        try:
            values[key] = _OPTIONS[key].read(value if equals else "")
        except ValueError as error:
            raise TrainingError(f"--methods {text}: {key} must be {_OPTIONS[key].kind}") from error
        given[key] = value
    label = name + (":" if given else "") + ",".join(f"{k}={v}" for k, v in given.items())
    budget = values.pop(_FLOPS_BUDGET, 1.0)
    settings = {key.replace("-", "_"): value for key, value in values.items()}
    return Variant(label, name, float(budget), MemorySettings(**settings))  # type: ignore[arg-type]


def check_shared(shared: Mapping[str, object]) -> None:
    """Raise TrainingError naming the first value of ``parse``'s ``shared`` that makes no sense."""
    for key, value in shared.items():
        if value is not None:
            try:
                _OPTIONS[key].read(str(value))
            except ValueError as error:
                raise TrainingError(f"--{key} {value}: must be {_OPTIONS[key].kind}") from error
