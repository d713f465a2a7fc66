"""The options that a domain of a fleet may have: those of ``da3 train``, by the names that they have there."""

from __future__ import annotations

from typing import Any

from da3.runtime.errors import Da3Error, quoted
from da3.runtime.system import parse_bytes
from da3.runtime.training import slice_size
from da3.toolchain.errors import FleetError, hint
from da3.toolchain.fleet.reading import Said
from da3.toolchain.learning import ENGINE, ENGINES, EngineOptions
from da3.toolchain.learning.options import refuse_others
from da3.toolchain.training.options import TrainOptions

# By the name that is written, what is made of the text.
_WHOLE = ("size", "epochs", "batch-size", "seed", "workers")
_NUMBER = ("lr", "keep", "label-smoothing")
_TEXT = (
    "data",
    "weights",
    "from",
    "backbone",
    "method",
    "keep-precision",
    "backbone-precision",
    "gradient",
    "micro-batch",
    "memory-budget",
    "device",
    "engine",
)
RESOURCES = ("cpus", "gpus", "memory")
KNOWN = (*_WHOLE, *_NUMBER, "flip", *_TEXT, *RESOURCES)
_NOT_HERE = {
    "domain": "it is the name that the options stand under",
    "runs": "every run lies in OUT/runs",
    "resume": "what is begun is gone on with",
    "overwrite": "give --overwrite to the command",
    "config": "write what is shared under defaults",
}
_ENGINES_OWN = ("method", "device", "keep_precision", "backbone_precision", "gradient")


def read_options(said: dict[str, Said], where: str) -> dict[str, Any]:
    """The options as written, by name with dashes, each of its type. Raises FleetError for what is no option, or none
    of its values; ``where`` names file and domain."""
    found: dict[str, Any] = {}
    for written, (value, line) in said.items():
        name = written.replace("_", "-")
        if name in _NOT_HERE:
            raise FleetError(f"{where}: line {line}: {name} is no option here: {_NOT_HERE[name]}")
        if name not in KNOWN:
            raise FleetError(f"{where}: line {line}: {written} is no option: {hint(name, KNOWN)}")
        if name in found:
            raise FleetError(f"{where}: line {line}: {name} is there twice")
        if not isinstance(value, str):
            raise FleetError(f"{where}: line {line}: {name} has no value: write one, or leave the line out")
        try:
            found[name] = _value(name, value)
        except (ValueError, Da3Error) as error:
            raise FleetError(f"{where}: line {line}: {error}") from error
    return found


def check(domain: str, options: dict[str, Any], engine: str) -> None:
    """Raise Da3Error for the first of the options, as ``train_options`` gives them, that makes no sense."""
    if engine not in ENGINES:
        raise FleetError(f"engine {engine}: use {' or '.join(ENGINES)}")
    if engine == ENGINE:
        refuse_others({name: options[name] for name in _ENGINES_OWN if name in options})
        EngineOptions(domain=domain, **engine_options(options)).check()
    TrainOptions(domain=domain, **options).check()


def train_options(found: dict[str, Any]) -> dict[str, Any]:
    """What of the options as written are ``TrainOptions``, by the names that they have there."""
    names = {name: "start" if name == "from" else name.replace("-", "_") for name in found}
    given = {names[name]: value for name, value in found.items() if name not in (*RESOURCES, "engine")}
    if "micro_batch" in given:
        given["micro_batch"] = slice_size(given["micro_batch"])
    return given


def engine_options(options: dict[str, Any]) -> dict[str, Any]:
    """What of ``TrainOptions`` an inference engine has too."""
    return {name: value for name, value in options.items() if name in EngineOptions._fields}


def _value(name: str, text: str) -> Any:
    if name in _WHOLE or name == "cpus":
        return _number(name, text, int, "a whole number such as 12")
    if name in _NUMBER or name == "gpus":
        return _number(name, text, float, "a number such as 0.7")
    if name == "flip":
        if text.lower() not in ("true", "false"):
            raise FleetError(f"flip must be true or false, not {quoted(text)}")
        return text.lower() == "true"
    if name in ("memory", "memory-budget"):
        nbytes = parse_bytes(text, name)
        return nbytes if name == "memory" else text
    if name == "micro-batch":
        slice_size(text)
    return text


def _number(name: str, text: str, kind: type, example: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise FleetError(f"{name} must be {example}, not {quoted(text)}") from error
