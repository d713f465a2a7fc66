"""What a stage of a self-test finds, and how the process that runs it says so: a JSON object a line."""

import json
from typing import Any, Callable, Dict, NamedTuple, Optional, TextIO

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


class Finding(NamedTuple):
    """status: PASS, FAIL or SKIP. name: what was looked at; text: what was seen, in a line; values: the figures."""

    status: str
    name: str
    text: str
    values: Dict[str, Any] = {}


class Teller:
    """Where a stage puts what it finds, as it finds it: who listens has it even if the process ends in the next line.

    hear: takes each line.
    """

    def __init__(self, hear: Callable[[Dict[str, Any]], None]) -> None:
        self._hear = hear

    def begin(self, text: str) -> None:
        """Something is begun that may take long, or end the process."""
        self._hear({"begin": text})

    def find(self, status: str, name: str, text: str, values: Optional[Dict[str, Any]] = None) -> None:
        """Something was found."""
        self._hear({"finding": Finding(status, name, text, values or {})._asdict()})

    def check(self, good: bool, name: str, text: str, values: Optional[Dict[str, Any]] = None) -> None:
        """PASS or FAIL."""
        self.find(PASS if good else FAIL, name, text, values)

    def note(self, key: str, value: Any) -> None:
        """Something to be in the report that is neither good nor bad."""
        self._hear({"note": [key, value]})


def line_teller(out: TextIO) -> Teller:
    """One that writes lines. Numbers that are not finite are written as text, which JSON can hold."""

    def hear(line: Dict[str, Any]) -> None:
        out.write(json.dumps(_plain(line)) + "\n")
        out.flush()

    return Teller(hear)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if hasattr(value, "item"):  # numpy's numbers
        value = value.item()
    if isinstance(value, float) and not -1e300 < value < 1e300:  # NaN is not between them either
        return str(value)
    return value if isinstance(value, (int, float)) else str(value)
