"""YAML that people write: mappings of texts alone, each with its line.

A value is the text that was written, as a command line has it, and what it means is decided by the option that it is
given to. So ``no`` is no truth value where a name is wanted, and ``4e-3`` is a number where one is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from da3.runtime.errors import quoted
from da3.runtime.system import read_regular
from da3.toolchain.errors import FleetError

LIMIT = 4 << 20  # bytes of a file
_DEEPEST = 8  # mappings in each other; a fleet has three


class Said(NamedTuple):
    """What the file says in one place: a text, None where nothing is written, or a mapping; ``line`` from 1."""

    value: str | dict[str, Said] | None
    line: int


def read_yaml(path: str) -> dict[str, Said]:
    """The mapping that a file holds. Raises FleetError, in one line with file and line, for anything else: no YAML, a
    name twice, a list, an alias, more than LIMIT bytes."""
    try:
        import yaml
    except ImportError as error:
        raise FleetError("files of fleets need more packages: pip install 'da3[ray]'") from error
    try:
        text = read_regular(path, LIMIT).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = "it is no text in UTF-8" if isinstance(error, UnicodeDecodeError) else _reason(error)
        raise FleetError(f"{path} cannot be read: {reason}") from error

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        depth = 0
        for event in yaml.parse(text, loader):  # before anything is made of it, and no further than it is sound
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                raise FleetError(f"{path}: line {line}: aliases (*) are not taken: write what is shared under defaults")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise FleetError(f"{path}: line {line}: more than {_DEEPEST} mappings or lists in each other")
        node = yaml.compose(text, loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f": line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise FleetError(f"{path}{where}: is no YAML: {problem}") from error
    if not isinstance(node, yaml.MappingNode):
        raise FleetError(f"{path}: must have lines such as `out: FOLDER` and `domains:`")
    return _mapping(node, path)


def _mapping(node: Any, path: str) -> dict[str, Said]:
    found: dict[str, Said] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if key.id != "scalar" or key.value in ("", "<<"):
            raise FleetError(f"{path}: line {line}: each line must be `name: value`")
        if key.value in found:
            before = found[key.value].line
            raise FleetError(f"{path}: line {line}: {quoted(key.value)} is there twice, first in line {before}")
        if value.id == "sequence":
            raise FleetError(f"{path}: line {line}: {quoted(key.value)} is a list: write one value, or `name: value`")
        if value.id == "mapping":
            found[key.value] = Said(_mapping(value, path), line)
        else:
            empty = not value.style and value.value in ("", "~", "null")
            found[key.value] = Said(None if empty else value.value, line)
    return found


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
