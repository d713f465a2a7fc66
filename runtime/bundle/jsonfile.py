"""JSON that comes from elsewhere: one reader for all of it, and typed access, whose errors say which entry is wrong."""

import json
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

from ..errors import BundleError, quoted
from ..system.sizes import render_bytes
from .format import JSON_LIMIT

_DEEPEST = 64  # objects and lists in each other; what reads them later may go down by calling itself
_MOST_DIGITS = 300  # of an integer: every such one is a finite float as well, and is read in no time

_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def read_json(data: Union[bytes, str], limit: int = JSON_LIMIT, finite: bool = True) -> Any:
    """What JSON text says. Raises ValueError, in one line, for what is no JSON in UTF-8, and for JSON that two readers
    could take for different things or that harms who goes on with it: a name twice in one object, half a surrogate
    pair, numbers beyond a float's, integers of more than 300 digits, more than 64 levels, more than `limit` bytes.

    finite: NaN and Infinity, which JSON does not know, are refused; what da3 alone writes and reads may hold them.
    """
    if len(data) > limit:
        raise ValueError("it has more than %s" % render_bytes(limit))
    text = data if isinstance(data, str) else data.decode("utf-8")
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite if finite else None,
            parse_constant=_refuse_constant if finite else None,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError("more than %d objects or lists in each other" % _DEEPEST)
    if text.count("[") + text.count("{") > _DEEPEST:
        _check_depth(value)
    if "\\u" in text:
        _check_text(value)
    return value


def parse_object(data: bytes, where: str, limit: int = JSON_LIMIT) -> "Object":
    """The JSON object in `data`, as `read_json` takes it; `where` is the file's name for errors."""
    try:
        value = read_json(data, limit)
    except ValueError as error:
        raise BundleError("%s is not valid JSON: %s" % (where, error))
    return Object(value, where)


def check_format(obj: "Object", newest: int) -> int:
    """The file's `format`, refused when this da3 is too old for it."""
    number = obj.integer("format")
    if number > newest:
        raise BundleError(
            "%s has format %d, written by a newer da3; this one reads up to %d: upgrade da3"
            % (obj.where, number, newest)
        )
    if number < 1:
        raise BundleError("%s: format must be 1 or more, not %d" % (obj.where, number))
    return number


class Object:
    """A JSON object with typed getters; `where` grows as one descends."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise BundleError("%s must be an object, not %s" % (where, _describe(value)))
        self.raw: Dict[str, Any] = value
        self.where = where

    def text(self, key: str) -> str:
        return str(self._get(key, str))

    def integer(self, key: str) -> int:
        return int(self._get(key, int))

    def number(self, key: str) -> float:
        try:
            return float(self._get(key, float))
        except OverflowError:
            raise BundleError("%s: %s is too large a number" % (self.where, key))

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool))

    def plain(self, key: str) -> Dict[str, Any]:
        """The object as an ordinary dict."""
        return dict(self._get(key, dict))

    def object(self, key: str) -> "Object":
        return Object(self._get(key, dict), "%s: %s" % (self.where, key))

    def items(self, key: str) -> List[Any]:
        return list(self._get(key, list))

    def objects(self, key: str) -> "List[Object]":
        return [Object(v, "%s: %s[%d]" % (self.where, key, i)) for i, v in enumerate(self.items(key))]

    def texts(self, key: str) -> List[str]:
        values = self.items(key)
        if not all(isinstance(v, str) for v in values):
            raise BundleError("%s: %s must hold only strings" % (self.where, key))
        return values

    def optional(self, key: str) -> Optional[Any]:
        return self.raw.get(key)

    def _get(self, key: str, kind: type) -> Any:
        if key not in self.raw:
            raise BundleError("%s: %s is missing" % (self.where, key))
        value = self.raw[key]
        wanted: Iterable[Union[type, Any]] = (int, float) if kind is float else (kind,)
        # bool is an int to Python, never to JSON.
        if not isinstance(value, tuple(wanted)) or (isinstance(value, bool) and kind is not bool):
            raise BundleError("%s: %s must be %s, not %s" % (self.where, key, _NAMES[kind], _describe(value)))
        return value


def _describe(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else quoted(value, 40)


def _refuse_constant(name: str) -> Any:
    raise ValueError("%s is not a JSON number" % name)


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("an integer of %d digits is too large a number" % len(text))
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError("%s is too large a number" % quoted(text, 40))
    return value


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError("%s stands twice in one object" % quoted(next(n for n in names if names.count(n) > 1), 40))
    return found


def _inner(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        level = [v for one in level for v in _inner(one) if isinstance(v, (dict, list))]
        if not level:
            return
    raise ValueError("more than %d objects or lists in each other" % _DEEPEST)


def _check_text(value: Any) -> None:
    """Raise UnicodeEncodeError, which is a ValueError, for half a surrogate pair: JSON can write it, and no UTF-8."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            one.encode("utf-8")
        elif isinstance(one, dict):
            waiting.extend(one)
        waiting.extend(_inner(one))
