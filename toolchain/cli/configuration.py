"""Files of options: ``--config FILE.toml`` of the commands that train and export, and what ``da3 config`` prints.

A file has a line ``option = value`` for each option, by the name that it has on the command line without the dashes. In
a table that is called as a command, ``[train]`` or ``[export]``, are those of that command alone. What is typed wins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from da3.runtime.training import DEFAULTS, MemorySettings
from da3.runtime.training.options_file import read_options, toml_lines, toml_value
from da3.toolchain.errors import ConfigurationError, hint

COMMANDS = ("train", "export")  # that read such files


def _load(context: typer.Context, file: Path | None) -> Path | None:
    """Make the options in the file the defaults of the command that is being parsed."""
    if file is not None:
        context.default_map = defaults_of(context, file)
    return file


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="read options from this file, such as RUNS/DOMAIN/options.toml of an earlier run; those typed here win",
        is_eager=True,
        callback=_load,
    ),
]


def defaults_of(context: typer.Context, file: Path) -> dict[str, Any]:
    """The options of the command in ``context`` that the file has, by the names that its parameters have.

    Raises ConfigurationError, naming file and option, for what is no TOML, no option or no value of that option.
    """
    command = context.command.name or ""
    known = options_of(context.command)
    others = {name for other in COMMANDS for name in options_of(_sibling(context, other))}
    read = read_options(file)
    tables = {name: read.pop(name) for name in COMMANDS if isinstance(read.get(name), dict)}
    _check_names(read, others, file, "")
    for name, table in tables.items():
        _check_names(table, set(options_of(_sibling(context, name))), file, f"[{name}] ")
    found = {name: value for name, value in read.items() if _typed(name) in known} | tables.get(command, {})
    return {known[_typed(name)].name: _checked(known[_typed(name)], value, file) for name, value in found.items()}


def options_of(command: Any) -> dict[str, Any]:
    """A command's options that a file may have: by their long name without dashes, the parameter."""
    found = {}
    for parameter in command.params:
        names = [name[2:] for name in getattr(parameter, "opts", ()) if name.startswith("--")]
        if names and names[0] not in ("config", "help") and parameter.param_type_name == "option":
            found[names[0]] = parameter
    return found


def effective(context: Any) -> str:
    """Every option of the parsed command as TOML: a line each, with where its value is from. What was not given is a
    comment: to give a default is not the same everywhere, since a memory budget leaves alone what was given."""
    settings = {**DEFAULTS._asdict(), **MemorySettings()._asdict(), "micro_batch": "auto"}
    lines = []
    for name, parameter in options_of(context.command).items():
        value = context.params.get(parameter.name)
        source = context.get_parameter_source(parameter.name)
        where = {"COMMANDLINE": "typed", "DEFAULT_MAP": "from the file"}.get(getattr(source, "name", ""), "default")
        if value is None and parameter.name in settings:
            lines.append(f"# {name} = {toml_value(settings[parameter.name])}  # default")
            continue
        if value is None:
            lines.append(f"# {name}: {parameter.help or 'not given'}")
            continue
        plain = str(value) if isinstance(value, Path) else value
        (line,) = toml_lines({name: plain})
        lines.append(f"{line}  # {where}")
    return "\n".join(lines)


def _sibling(context: typer.Context, name: str) -> Any:
    """Another command of the same program, or the command itself."""
    group = context.parent.command if context.parent is not None else context.command
    return getattr(group, "commands", {}).get(name, context.command)


def _check_names(given: dict[str, Any], known: set[str], file: Path, where: str) -> None:
    for name in given:
        if _typed(name) not in known:
            raise ConfigurationError(f"--config {file}: {where}{name} is no option: {hint(_typed(name), known)}")


def _checked(parameter: Any, value: Any, file: Path) -> Any:
    """The value, where it is one that could have been typed. Whether it makes sense the command says."""
    name = parameter.opts[0]
    if parameter.is_flag != isinstance(value, bool) or isinstance(value, dict):
        wanted = "true or false" if parameter.is_flag else "a string or a number"
        raise ConfigurationError(f"--config {file}: {name[2:]} must be {wanted}, not {_shown(value)}")
    return value if parameter.is_flag else str(value)


def _shown(value: Any) -> str:
    return "a table" if isinstance(value, dict) else toml_value(value)


def _typed(name: str) -> str:
    return name.replace("_", "-")
