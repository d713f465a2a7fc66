"""Results written to files: whole, or not at all, and known to be possible before hours are spent on them."""

import csv
import io
import os
from typing import Union

from ..errors import Da3Error
from ..system.atomic import write_atomically
from .predict import Run

_COLUMNS = (
    "path",
    "label",
    "probability",
    "exit",
    "blocks_run",
    "blocks_skipped",
    "flops_share",
    "known",
    "familiarity",
)


def check_writable(path: str, option: str) -> None:
    """Raise Da3Error, naming the option, unless a file can be written at `path`; folders on the way are made."""
    if os.path.isdir(path):
        raise Da3Error("%s %s is a folder: name a file in it" % (option, path))
    make_folder(os.path.dirname(os.path.abspath(path)), option)


def make_folder(path: str, option: str) -> None:
    """Raise Da3Error, naming the option, unless `path` is, or can be made, a folder to write in."""
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = "there is a file of that name" if isinstance(error, FileExistsError) else error.strerror or error
        raise Da3Error("%s: cannot make the folder %s: %s" % (option, path, reason))
    if not os.access(path, os.W_OK | os.X_OK):
        raise Da3Error("%s: cannot write in the folder %s: choose another, or change its permissions" % (option, path))


def write_text(path: str, text: Union[str, bytes], option: str) -> None:
    """Replace the file in one step. Raises Da3Error, naming the option."""
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    try:
        write_atomically(path, data)
    except OSError as error:
        raise Da3Error("%s: cannot write %s: %s" % (option, path, error.strerror or error))


def as_csv(run: Run) -> bytes:
    """What `--save-csv` writes: UTF-8, a header and a row for each image. `evaluate` takes it, once labels are
    corrected."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for path, p in run.predictions:
        exit = "" if p.exit is None else "%d" % p.exit
        numbers = ("%.6g" % p.probability, exit, "%d" % p.blocks_run, "%d" % p.blocks_skipped, "%.6g" % p.flops_share)
        known = ("", "") if p.known is None else ("%d" % p.known, "%.6g" % (p.familiarity or 0.0))
        writer.writerow((path, p.label) + numbers + known)
    return text.getvalue().encode("utf-8", "surrogateescape")
