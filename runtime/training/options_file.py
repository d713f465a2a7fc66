"""`options.toml`: the options that a run was made with, beside its checkpoints, in the form that --config reads."""

import json
from typing import Any, Dict, List

from .config import RunConfig

OPTIONS = "options.toml"

# What a checkpoint has of these is not what the user typed.
_NOT_OPTIONS = ("weights_sha256", "classes", "adaptor", "memory")


def options_toml(config: RunConfig, others: Dict[str, Any]) -> bytes:
    """Every option with the value that it had, given or not. others: those that are no part of the configuration."""
    values = options_of(config)
    values.update(others)
    lines = ["# The options that this run was made with. Again, with others: --config, then what is to differ."]
    lines += toml_lines(values)
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def options_of(config: RunConfig) -> Dict[str, Any]:
    """What of a configuration is an option, by its name, as it is typed."""
    values = {name: value for name, value in config.to_json().items() if name not in _NOT_OPTIONS}
    values.update((name, value) for name, value in config.memory.to_json().items() if name != "micro_batch")
    values["micro_batch"] = str(config.memory.micro_batch or "auto")
    return values


def toml_lines(values: Dict[str, Any]) -> List[str]:
    """A line `name = value` for each of the values that is not None; in names, - stands for _."""
    given = [(name, value) for name, value in values.items() if value is not None]
    return ["%s = %s" % (name.replace("_", "-"), toml_value(value)) for name, value in given]


def toml_value(value: Any) -> str:
    """A string, number or truth value as TOML has it. A JSON string is one of TOML, but for the one control character
    that JSON leaves as it is."""
    if isinstance(value, float):
        return repr(value)  # with a point or an exponent, which TOML wants too
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
