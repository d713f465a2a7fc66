"""A case: a tree of files, some of them damaged, and what is run on it. As a file, and laid out in a folder."""

import io
import json
import os
import zipfile
from collections import namedtuple

# What stands in the place of a file of the base, or beside it.
FILE, LINK, PIPE, FOLDER, GONE = "file", "link", "pipe", "folder", "gone"


class Entry(namedtuple("Entry", "name kind data")):
    """name: path in the case's folder, with / between folders. data: a file's bytes, or where a link leads."""


class Case(namedtuple("Case", "subject what base runner words entries stdin sealed")):
    """subject: what is damaged, and what: how, in words. base: the tree that is laid out first. runner: see running.py;
    words: its arguments. entries: what differs from the base. stdin: bytes. sealed: whether a hash still stands for
    what was damaged, so that any answer but the undamaged one is wrong."""


def case(subject, what, base, runner, words, entries=(), stdin=b"", sealed=False):
    return Case(subject, what, base, runner, list(words), list(entries), stdin, sealed)


def file(name, data):
    return Entry(name, FILE, data)


def lay_out(entries, folder):
    """Write the entries into the folder. Raises OSError or ValueError for names that this file system refuses."""
    for entry in entries:
        path = os.path.join(folder, *entry.name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if entry.kind == FOLDER:
            _remove(path)
            os.makedirs(path)
            continue
        _remove(path)
        if entry.kind == LINK:
            os.symlink(entry.data.decode("utf-8", "surrogateescape"), path)
        elif entry.kind == PIPE:
            os.mkfifo(path)
        elif entry.kind == FILE:
            with open(path, "wb") as opened:
                opened.write(entry.data)


def _remove(path):
    if os.path.islink(path) or os.path.isfile(path):
        os.remove(path)
    elif os.path.isdir(path):
        for name in os.listdir(path):
            _remove(os.path.join(path, name))
        os.rmdir(path)


def to_bytes(found):
    """The case as one small zip file, the same for the same case."""
    facts = found._replace(entries=[[e.name, e.kind] for e in found.entries], stdin="")._asdict()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        members = [("case.json", json.dumps(facts, indent=1, sort_keys=True).encode("ascii")), ("stdin", found.stdin)]
        members += [(str(number), entry.data) for number, entry in enumerate(found.entries)]
        for name, data in members:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return made.getvalue()


def from_bytes(data):
    """The reverse of `to_bytes`."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        facts = json.loads(archive.read("case.json").decode("ascii"))
        facts["entries"] = [
            Entry(name, kind, archive.read(str(number))) for number, (name, kind) in enumerate(facts["entries"])
        ]
        facts["stdin"] = archive.read("stdin")
    return Case(**facts)
