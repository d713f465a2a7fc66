"""Methods with options, as benchmarks name them: ``da3:keep=0.6,gradient=skip-path``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from da3.runtime.training import BACKBONE_PRECISIONS, GRADIENTS, KEEP_PRECISIONS, MemorySettings
from da3.runtime.training.recipe import closing_share
from da3.toolchain.errors import TrainingError
from da3.toolchain.learning import ENGINES
from da3.toolchain.methods import METHODS, method


@dataclass(frozen=True)
class Variant:
    """A method with its options. ``label``: as the user wrote it. ``flops_budget``: share of the block FLOPs to run.

    ``learning_rate``: None is the method's own. ``choice``: what the user wrote where this is one of several learning
    rates, of which the best is to be reported. ``engine``: what computes, as ``da3 train --engine`` names it.
    """

    label: str
    method: str
    flops_budget: float = 1.0
    memory: MemorySettings = field(default_factory=MemorySettings)
    learning_rate: float | None = None
    choice: str | None = None
    engine: str = ENGINES[0]

    @property
    def trained_budget(self) -> float:
        """What the network is trained for: 1 where no block is closed, since where photos leave is chosen later."""
        return 1.0 if closing_share(self.flops_budget) == 1 else self.flops_budget

    @property
    def network(self) -> str:
        """Names what is trained: the same for two variants whose training gives the same network."""
        found: dict[str, object] = {}
        if self.trained_budget < 1:
            found[_FLOPS_BUDGET] = self.trained_budget
        if self.learning_rate not in (None, METHODS[self.method].default_lr):
            found[_LEARNING_RATE] = self.learning_rate
        if self.engine != ENGINES[0]:
            found[_ENGINE] = self.engine
        for name in memory_settings_of(self.method):
            value = getattr(self.memory, name)
            if value != getattr(MemorySettings(), name):
                found[name.replace("_", "-")] = value
        return _label(self.method, found)

    @property
    def folder(self) -> str:
        """``network`` as a folder's name: ``da3-keep-0.5``."""
        return re.sub(r"[:=,]", "-", self.network)


def _label(name: str, options: Mapping[str, object]) -> str:
    return name + (":" if options else "") + ",".join(f"{key}={value}" for key, value in options.items())


def _share(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 1):
        raise ValueError
    return value


def _rates(text: str) -> tuple[float, ...]:
    found = tuple(float(piece) for piece in text.split("/"))
    if not all(0 < rate < 10 for rate in found):
        raise ValueError
    return found


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


# The options that are no memory settings.
_FLOPS_BUDGET = "keep"
_LEARNING_RATE = "lr"
_ENGINE = "engine"
_OPTIONS = {
    _FLOPS_BUDGET: _Option(_share, "a number from 0 to 1"),
    _LEARNING_RATE: _Option(_rates, "above 0 and below 10; to report the best of several, write 1e-4/3e-4/1e-3"),
    _ENGINE: _Option(_one_of(ENGINES), " or ".join(ENGINES)),
    "micro-batch": _Option(_count, "a whole number of images, 0 to choose"),
    "keep-precision": _Option(_one_of(KEEP_PRECISIONS), " or ".join(KEEP_PRECISIONS)),
    "backbone-precision": _Option(_one_of(BACKBONE_PRECISIONS), " or ".join(BACKBONE_PRECISIONS)),
    "gradient": _Option(_one_of(GRADIENTS), " or ".join(GRADIENTS)),
}


def options_of(name: str) -> list[str]:
    """The options that mean something to a single step of the method called ``name``."""
    if name == "da3":
        return [option for option in _OPTIONS if option not in (_LEARNING_RATE, _ENGINE)]
    precision = ["backbone-precision"] if name in ("finetune", "linear") else []
    return [*(["micro-batch"] if METHODS[name].sliceable else []), *precision]


def memory_settings_of(name: str) -> list[str]:
    """The fields of MemorySettings that mean something to the method called ``name``."""
    return [option.replace("-", "_") for option in options_of(name) if option != _FLOPS_BUDGET]


def parse(
    words: Sequence[str],
    shared: Mapping[str, object] | None = None,
    *,
    learning_rates: bool = False,
) -> list[Variant]:
    """Variants written as comma lists, in one word or several; without a word, every method as it is.

    In ``finetune,da3:keep=0.6,gradient=exact,linear`` the options follow their method. ``shared`` gives values by
    option: a variant takes those that it does not set itself and that mean something to its method; None is "not
    given". ``learning_rates``: every method also takes ``lr``, and ``finetune:lr=1e-4/3e-4`` gives two variants.
    Raises TrainingError naming what is wrong.
    """
    texts = _split(words) or list(METHODS)
    variants = [variant for text in texts for variant in _variants(text, shared or {}, learning_rates)]
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


def _variants(text: str, shared: Mapping[str, object], learning_rates: bool) -> list[Variant]:
    """One, or one for each learning rate."""
    name, colon, rest = text.partition(":")
    method(name)
    known = options_of(name) + [_LEARNING_RATE] * learning_rates + [_ENGINE] * (name == "da3")
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
    budget = values.pop(_FLOPS_BUDGET, 1.0)
    values.pop(_LEARNING_RATE, None)
    engine = str(values.pop(_ENGINE, ENGINES[0]))
    if engine != ENGINES[0]:
        others = [key for key in given if key not in (_FLOPS_BUDGET, _ENGINE, "micro-batch")]
        if others:
            raise TrainingError(f"--methods {text}: {others[0]} means nothing to {engine}: leave it out")
    settings = {key.replace("-", "_"): value for key, value in values.items()}
    label = _label(name, given)
    one = Variant(label, name, float(budget), MemorySettings(**settings), engine=engine)  # type: ignore[arg-type]
    if _LEARNING_RATE not in given:
        return [one]
    rates = [rate.strip() for rate in given[_LEARNING_RATE].split("/")]
    return [
        replace(
            one,
            label=_label(name, {**given, _LEARNING_RATE: rate}),
            learning_rate=float(rate),
            choice=label if len(rates) > 1 else None,
        )
        for rate in rates
    ]


def check_shared(shared: Mapping[str, object]) -> None:
    """Raise TrainingError naming the first value of ``parse``'s ``shared`` that makes no sense."""
    for key, value in shared.items():
        if value is not None:
            try:
                _OPTIONS[key].read(str(value))
            except ValueError as error:
                raise TrainingError(f"--{key} {value}: must be {_OPTIONS[key].kind}") from error
