"""Of which kind the values are that a checkpoint's JSON holds: what it says is believed where it is printed or run."""

from typing import Any, Iterable, Mapping

_WORDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
_BEYOND = 1 << 63  # integers from here on are none of da3's, and some are more than a float can hold


def check_kinds(values: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raise TypeError for the first of the values that is not of its kind, KeyError for one that is missing.

    An integer is a number; true and false are none.
    """
    for name, kind in kinds.items():
        check_each(name, [values[name]], kind)


def check_each(name: str, values: Iterable[Any], kind: type) -> None:
    """Raise TypeError unless all these values are of the kind; `name` is what they are called."""
    for value in values:
        fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if not fits or (isinstance(value, int) and abs(value) >= _BEYOND):
            raise TypeError("%s: not %s" % (name, _WORDS[kind]))


def check_numbers(name: str, values: Any) -> None:
    """Raise TypeError unless these are numbers by their names."""
    if not isinstance(values, dict):
        raise TypeError("%s: no object" % name)
    check_each(name, values.values(), float)
