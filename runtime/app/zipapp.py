"""`run_engine.pyz`: this runtime as one file that a board's python3 runs as it is.

Copied with a bundle's folder it brings everything but numpy and a backend.
"""

import functools
import io
import os
import pkgutil
import sys
import tokenize
import zipfile
from typing import Dict, List, Tuple, Union

from ..errors import BundleError
from ..system.atomic import replace_file

NAME = "run_engine.pyz"
_PACKAGE = "da3.runtime"
# `python` is Python 2 on some boards, and only here can it still say so.
_MAIN = b"""import sys

if sys.version_info < (3, 6):
    sys.exit("error: this is Python %d.%d: use python3, 3.6 or newer" % sys.version_info[:2])
try:
    import numpy
except ImportError as error:
    sys.exit("error: this Python has no working numpy (%s): sudo apt-get install python3-numpy" % error)

from da3.runtime.app.commands import main

sys.exit(main())
"""


def write_run_engine(path: Union[str, "os.PathLike[str]"]) -> str:
    """Write this runtime to `path` in one step; a folder gets run_engine.pyz in it. Returns the path.

    The same runtime and zlib give the same bytes; a file that has them already is left alone. Raises BundleError.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        path = os.path.join(path, NAME)
    data = run_engine()
    try:
        if not _is(path, data):
            replace_file(path, lambda file: file.write(data))
    except OSError as error:
        raise BundleError("cannot write %s: %s" % (path, error.strerror or error))
    return path


@functools.lru_cache(maxsize=1)
def run_engine() -> bytes:
    """This runtime as one file. It takes half a second to make, and a process has one runtime."""
    return _zip(dict(_sources(), **{"__main__.py": _MAIN, "da3/__init__.py": b""}))


def _sources() -> Dict[str, bytes]:
    """The runtime's .py files by their names in the archive, read through the importer: it may be a zip itself."""
    names = ["__init__.py"]
    for module in pkgutil.walk_packages(sys.modules[_PACKAGE].__path__, _PACKAGE + "."):
        stem = module.name[len(_PACKAGE) + 1 :].replace(".", "/")
        names.append(stem + ("/__init__.py" if module.ispkg else ".py"))
    found: Dict[str, bytes] = {}
    for name in names:
        data = pkgutil.get_data(_PACKAGE, name)
        assert data is not None, name
        found["%s/%s" % (_PACKAGE.replace(".", "/"), name)] = _bare(data)
    return found


def _bare(source: bytes) -> bytes:
    """A Python file without its comments and with empty docstrings, every other token on the line where it was.

    That is a fifth of what lies in every bundle, and a traceback still names the lines of the source.
    """
    text = source.decode("utf-8")
    offsets = [0]
    for line in text.splitlines(True):
        offsets.append(offsets[-1] + len(line))
    for start, end, instead in reversed(_cuts(text)):
        first, last = offsets[start[0] - 1] + start[1], offsets[end[0] - 1] + end[1]
        text = text[:first] + instead + "\n" * (end[0] - start[0]) + text[last:]
    return "\n".join(line.rstrip() for line in text.split("\n")).encode("utf-8")


def _cuts(text: str) -> List[Tuple[Tuple[int, int], Tuple[int, int], str]]:
    """((line, column) of the start, of the end, what to put there) of every comment and docstring, in order."""
    cuts = []
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    before = tokenize.NEWLINE
    for token, after in zip(tokens, tokens[1:]):
        if token.type == tokenize.COMMENT:
            cuts.append((token.start, token.end, ""))
            continue
        is_statement = before in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT) and after.type == tokenize.NEWLINE
        if token.type == tokenize.STRING and is_statement:
            cuts.append((token.start, token.end, '""'))
        if token.type != tokenize.NL:
            before = token.type
    return cuts


def _zip(content: Dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in sorted(content.items()):
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return packed.getvalue()


def _is(path: str, data: bytes) -> bool:
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return file.read() == data
