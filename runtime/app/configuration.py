"""Options of a command from a file: `learn --config FILE.toml`, which runs write beside their checkpoints."""

import argparse
import difflib
from typing import Any, Dict, List

from ..errors import ConfigurationError
from ..training.options_file import read_options, toml_value

OPTION = "--config"


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that names the file."""
    help_text = "read options from this file, such as RUNS/DOMAIN/options.toml of an earlier run; those typed here win"
    parser.add_argument(OPTION, metavar="FILE.toml", help=help_text)


def take_defaults(parser: argparse.ArgumentParser, command: str, words: List[str]) -> None:
    """Where the words name a file, make the options in it the defaults of the command that they are parsed for.

    In a table that is called as another command are that one's options. Raises ConfigurationError, naming file and
    option, for what is no option, or no value of that option.
    """
    known = _known(parser)
    required = [action for action in known.values() if action.required]
    for action in required:
        action.required = False
    file = parser.parse_known_args(words)[0].config
    found = {} if file is None else _found(read_options(file), known, command, file)
    parser.set_defaults(**found)
    for action in required:
        action.required = action.dest not in found


def _known(parser: argparse.ArgumentParser) -> Dict[str, argparse.Action]:
    """What a file may have, by name: options as they are typed, those that say `no` without it, and the photos."""
    known: Dict[str, argparse.Action] = {}
    for action in parser._actions:  # argparse has no other list of them
        names = [name[2:] for name in action.option_strings if name.startswith("--")]
        if action.dest == "photos":
            known["data"] = action
        elif names and names[0] not in ("config", "help", "debug"):
            known[action.dest if names[0].startswith("no-") else names[0]] = action
    return known


def _found(read: Dict[str, Any], known: Dict[str, argparse.Action], command: str, file: str) -> Dict[str, Any]:
    """The values by the names that the parsed options have."""
    own = read.get(command)
    given = {name: value for name, value in read.items() if not isinstance(value, dict)}
    if isinstance(own, dict):
        given.update(own)
    found: Dict[str, Any] = {}
    for name, value in given.items():
        typed = name.replace("_", "-")
        if typed not in known:
            near = difflib.get_close_matches(typed, sorted(known), 1)
            hint = "did you mean %s?" % near[0] if near else "known are %s" % ", ".join(sorted(known))
            raise ConfigurationError("%s %s: %s is no option of %s: %s" % (OPTION, file, name, command, hint))
        found[known[typed].dest] = _checked(known[typed], typed, value, file)
    return found


def _checked(action: argparse.Action, name: str, value: Any, file: str) -> Any:
    """The value as it is typed, where it can be. Whether it makes sense the command says."""
    flag = action.nargs == 0
    if flag != isinstance(value, bool):
        wanted = "true or false" if flag else "a string or a number"
        raise ConfigurationError("%s %s: %s must be %s, not %s" % (OPTION, file, name, wanted, toml_value(value)))
    if action.choices is not None and value not in action.choices:
        words = (OPTION, file, name, ", ".join(map(str, action.choices)), toml_value(value))
        raise ConfigurationError("%s %s: %s must be one of %s, not %s" % words)
    return value if flag else str(value)
