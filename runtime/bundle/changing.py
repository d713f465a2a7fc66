"""A bundle changed by one process at a time, on top of whatever an earlier one left."""

import hashlib
import os
from contextlib import contextmanager
from typing import Iterator, Optional

from ..errors import BundleError
from ..system.atomic import remove_unfinished, replace_file, sync_folder
from ..system.locking import exclusive
from ..system.regular import read_regular
from .bundle import Bundle
from .format import DOMAINS, FILE_LIMIT, JSON_LIMIT, MANIFEST, PENDING, pending_name
from .jsonfile import read_json
from .placing import settle_domains
from .writer import file_entry, to_json


@contextmanager
def changing(bundle: Bundle, what: str, domain: Optional[str] = None) -> Iterator[None]:
    """Nobody else changes the bundle while this holds; what a killed process left unfinished is finished first.

    what: is written in it, for the BundleError that says why it cannot be. domain: the one that is changed, if it is
    one: unfinished files of others are left to whoever changes those, since a bundle may have ten thousand. Raises
    InUseError too, which says who changes it.
    """
    try:
        with exclusive(bundle.path) as alone:
            if alone:
                _settle(bundle, domain)
            yield
    except OSError as error:
        raise BundleError("cannot write %s: %s" % (os.path.join(bundle.path, what), error.strerror or error))


def put_file(bundle: Bundle, name: str, data: bytes) -> None:
    """Write a file into a bundle directory and list it in the manifest, in the place of an earlier one of that name.

    At any moment the bundle has the file as it was, or as it is now. `bundle` itself stays as it was opened. Raises
    BundleError if the bundle is zipped or cannot be written, and InUseError.
    """
    bundle.require_directory()
    with changing(bundle, name):
        bundle.files.refuse_links(name)
        bundle.files.refuse_links(pending_name(name))
        path, pending = _path(bundle, name), _path(bundle, pending_name(name))
        manifest = read_json(bundle.files.read(MANIFEST, limit=JSON_LIMIT))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # A file and its hash cannot change in one step. What waits under the other name is read in the place of one
        # that is not as the manifest says.
        replace_file(pending, lambda file: file.write(data))
        manifest["files"][name] = file_entry(data)._asdict()
        content = to_json(manifest)
        replace_file(_path(bundle, MANIFEST), lambda file: file.write(content))
        _take_place(pending, path)


def _settle(bundle: Bundle, domain: Optional[str]) -> None:
    """Finish, or undo, what a process that was killed has begun. Raises OSError."""
    settle_domains(_path(bundle, DOMAINS), domain)
    remove_unfinished(bundle.path)
    listed = read_json(bundle.files.read(MANIFEST, limit=JSON_LIMIT))["files"]
    for folder in sorted({os.path.dirname(_path(bundle, name)) for name in listed}):
        remove_unfinished(folder)
    for name in sorted(listed):
        folder = os.path.dirname(_path(bundle, name))
        pending = os.path.join(folder, PENDING + os.path.basename(name))
        if os.path.isfile(pending):
            found = hashlib.sha256(read_regular(pending, FILE_LIMIT)).hexdigest()
            if found == listed[name]["sha256"]:
                _take_place(pending, _path(bundle, name))
            else:
                os.remove(pending)


def _take_place(pending: str, path: str) -> None:
    os.replace(pending, path)
    sync_folder(os.path.dirname(path))


def _path(bundle: Bundle, name: str) -> str:
    return os.path.join(bundle.path, *name.split("/"))
