"""How numbers of bytes are written for people."""

import re

from ..errors import Da3Error

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def render_bytes(nbytes: int) -> str:
    """A number of bytes as text, in steps of 1024: 7.4 GiB, 1.5 MiB, 4 KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if nbytes >= unit:
            return "%.1f %s" % (nbytes / float(unit), name)
    return "%d KiB" % -(-nbytes // 1024)


def parse_bytes(text: str, option: str) -> int:
    """The number of bytes that the value of a command line's option means: KB, MB and GB are powers of 1000, KiB, MiB
    and GiB of 1024; the B may be left out, and a number alone is bytes.

    Raises Da3Error, naming the option, for what is no size, and for none at all.
    """
    found = re.match(r"^(\d{1,12}(?:\.\d{1,6})?) *((?:[kmg]i?)?)b?$", text.strip().lower())
    count = int(float(found.group(1)) * _UNITS[found.group(2)]) if found is not None else 0
    if count <= 0:
        raise Da3Error("%s %s: use a size such as 256MB, 512MiB or 1.5GB" % (option, text))
    return count
