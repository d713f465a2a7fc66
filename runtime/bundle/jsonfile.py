"""Typed access to the JSON files of a bundle: every error says which entry of which file is wrong."""

import json
from typing import Any, Dict, Iterable, List, Optional, Union

from ..errors import BundleError

_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
}


def parse_object(data: bytes, where: str) -> "Object":
    """The JSON object in `data`; `where` is the file's name for errors."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
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
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _refuse_constant(name: str) -> Any:
    raise ValueError("%s is not a JSON number" % name)
