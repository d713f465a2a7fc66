"""Where things of a fleet lie: a path that all nodes see, or a URI that fsspec opens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from da3.runtime.errors import Da3Error
from da3.toolchain.errors import FleetError

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_SECRET = re.compile(r"(://)[^/@]*@")


def is_uri(place: str) -> bool:
    """Whether it is to be opened by fsspec: it begins as ``s3://`` does, or is a chain of such (``::``)."""
    return _URI.match(place) is not None


def shown(place: str) -> str:
    """The place as people may see it: without a user's name and password."""
    return _SECRET.sub(r"\1", place)


def below(place: str, *names: str) -> str:
    """What is called so below a folder that is a path or a URI."""
    if is_uri(place):
        return "/".join((place.rstrip("/"), *names))
    return str(Path(place, *names))


def absolute(place: str, base: Path) -> str:
    """A path below ``base`` unless it is absolute or begins with ~; a URI as it is."""
    if is_uri(place):
        return place
    return str(base.joinpath(Path(place).expanduser()).absolute())


@contextmanager
def storage(uri: str, doing: str = "reached") -> Iterator[None]:
    """Within the block, whatever the package that serves a URI raises is a FleetError of one line."""
    try:
        yield
    except Da3Error:
        raise
    except FileNotFoundError as error:
        raise FleetError(f"{shown(uri)} does not exist") from error
    except ImportError as error:
        raise FleetError(f"{shown(uri)} cannot be {doing}: a package is missing ({_line(error)})") from error
    except Exception as error:  # there is a package for each kind of storage, each with exceptions of its own
        raise FleetError(f"{shown(uri)} cannot be {doing}: {type(error).__name__}: {_line(error)}") from error


def opened(uri: str) -> tuple[Any, str]:
    """(fsspec's file system, the path in it). Raises FleetError where a package is missing or nothing is reached."""
    with storage(uri):
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise FleetError("URIs need more packages: pip install 'da3[ray]'") from error
        system, path = url_to_fs(uri)
        return system, str(path)


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0]) if lines else "no reason given"
