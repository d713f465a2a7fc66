"""Found cases as files: what they are called."""

import hashlib
import re

from .child import case as cases


def file_name(case, name):
    """The same for the same case; says what it is."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{case.subject} {name}".lower()).strip("-")[:80]
    return f"{words}-{hashlib.sha256(cases.to_bytes(case)).hexdigest()[:8]}.case"
