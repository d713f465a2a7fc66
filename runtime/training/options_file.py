"""`options.toml`: the options that a run was made with, beside its checkpoints, in the form that --config reads."""

import io
import json
import os
import re
from typing import Any, Dict, List, Tuple

from ..errors import ConfigurationError
from ..records import Path
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
    """A string, number or truth value as TOML has it. A JSON string is one of TOML, but for what JSON leaves as it is
    and a terminal would obey or not show: that is escaped, where it has an escape that is both JSON's and TOML's."""
    if isinstance(value, float):
        return repr(value)  # with a point or an exponent, which TOML wants too
    text = json.dumps(value, ensure_ascii=False)
    return "".join(_escaped(c) if not c.isprintable() and ord(c) < 1 << 16 else c for c in text)


def _escaped(character: str) -> str:
    """TOML has no halves of surrogate pairs."""
    return "?" if "\ud800" <= character <= "\udfff" else "\\u%04x" % ord(character)


_NAME = re.compile(r'\s*(?:([A-Za-z0-9_-]+)|"([^"\\]*)")\s*')
_NUMBER = re.compile(r"[+-]?\d+(?:_\d+)*(\.\d+(?:_\d+)*)?([eE][+-]?\d+)?(?![\w.])")
_LITERAL = re.compile(r"'([^']*)'")
_WORDS = (("true", True), ("false", False))


def read_options(path: Path) -> Dict[str, Any]:
    """What a file of options says: a string, number or truth value by name, and for a [table] a dictionary of those.

    Of TOML, which Python reads from 3.11 on alone, this is all that options need: what `toml_lines` writes, literal
    strings, underscores in numbers, tables and comments. Raises ConfigurationError, naming file and line, for the rest.
    """
    name = os.fspath(path)
    try:
        with io.open(name, encoding="utf-8-sig") as file:
            lines = file.read().split("\n")
    except OSError as error:
        raise ConfigurationError("--config %s: cannot be read: %s" % (name, error.strerror or error))
    except UnicodeDecodeError:
        raise ConfigurationError("--config %s: is no text in UTF-8" % name)
    read: Dict[str, Any] = {}
    table = read
    for number, line in enumerate(lines, 1):
        line = line.strip()
        try:
            if line.startswith("["):
                table = _new(read, _name(line[1:], "]"), {})
            elif line and not line.startswith("#"):
                called, rest = _before(line, "=")
                _new(table, called, _value(rest))
        except ValueError as error:
            raise ConfigurationError("--config %s: line %d: %s" % (name, number, error))
    return read


def _new(table: Dict[str, Any], name: str, value: Any) -> Any:
    if name in table:
        raise ValueError("%s is there twice" % name)
    table[name] = value
    return value


def _name(text: str, end: str) -> str:
    name, rest = _before(text, end)
    _check_nothing(rest)
    return name


def _before(text: str, end: str) -> Tuple[str, str]:
    """The name that `end` stands behind, and what comes then."""
    found = _NAME.match(text)
    if found is None or not text.startswith(end, found.end()):
        raise ValueError("is no line `option = value`, and no [table]")
    return found.group(1) or found.group(2), text[found.end() + 1 :]


def _value(text: str) -> Any:
    text = text.strip()
    number, literal = _NUMBER.match(text), _LITERAL.match(text)
    word = next(((word, value) for word, value in _WORDS if re.match(word + r"\b", text)), None)
    if text.startswith('"'):
        try:
            value, end = json.JSONDecoder(strict=False).raw_decode(text)
        except ValueError:
            raise ValueError("has a string without an end, or with an escape that is not known")
    elif literal is not None:
        value, end = literal.group(1), literal.end()
    elif word is not None:
        value, end = word[1], len(word[0])
    elif number is not None:
        plain = number.group().replace("_", "")
        value, end = float(plain) if number.group(1) or number.group(2) else int(plain), number.end()
    else:
        raise ValueError('has no value that an option can have: write a "string", a number, true or false')
    _check_nothing(text[end:])
    return value


def _check_nothing(text: str) -> None:
    if text.strip() and not text.strip().startswith("#"):
        raise ValueError("goes on behind its value: write one option on a line")
