"""A domain's folder put in the place of another, or taken away, so that no reader ever finds none, or half of one.

Two folders change places in one step where the system can do that. Where it cannot, as on FAT and NFS, the old one is
called `_replaced-NAME` for a moment, which is no domain's name: readers look there too, and should the process be
killed in that moment, the next one to write puts it back. What is in writing lies in a folder whose name begins with a
dot, which is locked as long as its process lives.
"""

import os
import shutil
import stat
from typing import Dict, Optional

from ..errors import Da3Error
from ..system.atomic import keep_mode, remove_unfinished, sync_folder
from ..system.exchanging import exchange
from ..system.scratch import remove_abandoned, scratch_folder
from .domain import read_pack
from .format import ASIDE, DESCRIPTION, is_domain_name
from .writer import write_files

_WRITING = ".adding-"
_LEFT = (_WRITING, ".removed-", ".replaced-")  # what processes that were killed have left, those of older da3 too


def put_folder(folder: str, name: str, files: Dict[str, bytes], working: Optional[str] = None) -> None:
    """Write `files` as `folder`/`name`, in the place of what is there, whose modes and owner they get.

    working: a folder of the same file system where what is in writing lies, and what is set aside, if nothing but whole
    folders may ever be seen in `folder`. The caller has the lock. Raises OSError; all is as it was then.
    """
    os.makedirs(folder, exist_ok=True)
    place = os.path.join(folder, name)
    with scratch_folder(working or folder, _WRITING) as scratch:
        fresh = os.path.join(scratch, name)
        write_files(fresh, files)
        _keep_modes(fresh, place)
        if not os.path.lexists(place):
            os.rename(fresh, place)
        elif not exchange(fresh, place):
            aside = os.path.join(working or folder, ASIDE + name)
            _replace_by_two(fresh, place, aside, os.path.join(scratch, "old"))
        sync_folder(folder)


def remove_folder(folder: str, name: str, working: Optional[str] = None) -> None:
    """Take `folder`/`name` away; working: as of `put_folder`. The caller has the lock. Raises OSError."""
    place = os.path.join(folder, name)
    with scratch_folder(working or folder, _WRITING) as scratch:
        os.rename(place, os.path.join(scratch, name))
        sync_folder(folder)


def settle_folders(folder: str, working: str) -> None:
    """Put back into `folder`, or remove, what processes that were killed have left in `working`, where `put_folder` was
    given one. The caller has the lock. Raises OSError."""
    for left in sorted(os.listdir(working)):
        if left.startswith(ASIDE):
            _put_back(os.path.join(working, left), os.path.join(folder, left[len(ASIDE) :]))
    remove_abandoned(working, _WRITING)


def settle_domains(folder: str, changed: Optional[str]) -> None:
    """Put back, or remove, what processes that were killed have left: folders, and files of the domain `changed`. The
    caller has the lock. Raises OSError."""
    if not os.path.isdir(folder):
        return
    for left in sorted(os.listdir(folder)):
        if left.startswith(ASIDE):
            _put_back(os.path.join(folder, left), os.path.join(folder, left[len(ASIDE) :]))
        elif left.startswith(".replaced-"):  # of an older da3, in which the old domain is called so
            _put_back_of_older(os.path.join(folder, left, "old"), folder)
    if changed is not None and is_domain_name(changed) and not os.path.islink(os.path.join(folder, changed)):
        remove_unfinished(os.path.join(folder, changed))
    for prefix in _LEFT:
        remove_abandoned(folder, prefix)


def _put_back(aside: str, place: str) -> None:
    if os.path.lexists(place):
        _remove(aside)
    else:
        os.rename(aside, place)


def _put_back_of_older(old: str, folder: str) -> None:
    if not os.path.isfile(os.path.join(old, DESCRIPTION)):
        return
    try:
        name = read_pack(old).name
    except Da3Error:  # damaged: it is nothing to put back
        return
    if not os.path.lexists(os.path.join(folder, name)):
        os.rename(old, os.path.join(folder, name))


def _replace_by_two(fresh: str, place: str, aside: str, old: str) -> None:
    """aside: what the replaced one is called for a moment; old: before it is removed, so that nobody reads what is half
    gone."""
    folder = os.path.dirname(place)
    if os.path.lexists(aside):
        _remove(aside)  # it was killed as it removed what it had replaced
    os.rename(place, aside)
    try:
        sync_folder(folder)
        os.rename(fresh, place)
    except OSError:
        os.rename(aside, place)
        raise
    sync_folder(folder)
    os.rename(aside, old)


def _keep_modes(fresh: str, place: str) -> None:
    """Folder and files are as readable as those of these names that they replace."""
    before = _status(place)
    if before is None or not stat.S_ISDIR(before.st_mode):
        return
    for name in sorted(os.listdir(fresh)):
        earlier = _status(os.path.join(place, name))
        if earlier is not None and stat.S_ISREG(earlier.st_mode):
            keep_mode(os.path.join(fresh, name), earlier)
    keep_mode(fresh, before)


def _status(path: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(path)
    except OSError:
        return None


def _remove(path: str) -> None:
    if os.path.islink(path) or not os.path.isdir(path):
        os.remove(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
