"""Arrays as .npy: their headers are Python text, behind which may be a pickle, a zip, or less than they say."""

import io
import pickle
import struct

import numpy as np
from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import plain, texts, zips
from . import Subject

NAMES = ("pictures.npy", "tensors.npy", "fortran.npy", "objects.npy", "archive.npz")
_TYPES = (
    "|u1",
    "<f4",
    ">f4",
    "<f8",
    "<f2",
    "<i8",
    "|b1",
    "|O",
    "<c8",
    "<U5",
    "|S3",
    "|V8",
    "<M8[s]",
    "<f16",
    "",
    "x",
    "|u1000000000",
    "f4,f4",
    "<f4, (2,)",
    "O,O",
    "3u1",
)
_SHAPES = (
    "(1, 24, 20, 3)",
    "(24, 20, 3)",
    "(2, 3, 16, 16)",
    "()",
    "(0,)",
    "(1, 0, 20, 3)",
    "(1, 1, 400000, 3)",
    "(-1, 24, 20, 3)",
    "(99999999999, 24, 20, 3)",
    "(2**70,)",
    "(1, 24, 20, 4)",
    "[1, 24, 20, 3]",
    "(1.0, 24, 20, 3)",
    "(True, 24, 20, 3)",
    "None",
    "(1, 24, 20, 3" + ", 1" * 200 + ")",
    "(" * 3000,
    "(1," + " " * 70000 + "24, 20, 3)",
    "1",
    "(10**5, 10**5, 3)",
    "(9" + "9" * 400 + ",)",
)


def _made(what, data, name="made.npy"):
    return cases.case("array", what, "photos", "pictures", ("16", name), [cases.file(name, data)])


@st.composite
def _headers(draw):
    kind, shape = draw(st.sampled_from(_TYPES)), draw(st.sampled_from(_SHAPES))
    order = draw(st.sampled_from(("False", "True", "False", "None", "1", "'x'")))
    entries = [f"'descr': {kind!r}", f"'fortran_order': {order}", f"'shape': {shape}"]
    oddity = draw(st.sampled_from(("plain",) * 6 + ("gone", "more", "list", "text", "code", "deep")))
    if oddity == "gone":
        entries.pop(draw(st.integers(0, 2)))
    elif oddity == "more":
        entries.append(f"{draw(texts.texts())!r}: {draw(texts.plain())!r}")
    text = "{" + ", ".join(entries) + ", }"
    text = {
        "list": f"[{kind!r}]",
        "text": draw(texts.texts()),
        "code": "__import__('os').system('touch made')",
        "deep": "-" * 9000 + "1",
    }.get(oddity, text)
    major, minor = draw(st.sampled_from(((1, 0), (1, 0), (1, 0), (2, 0), (3, 0), (9, 0), (1, 7))))
    inner = (text + "\n").encode("utf-8", "surrogatepass")
    length = draw(st.sampled_from((len(inner), len(inner), len(inner), len(inner), 0, 1, 2**16 - 1, 2**32 - 1)))
    packed = struct.pack("<H" if major == 1 else "<I", length % 2 ** (16 if major == 1 else 32))
    body = bytes(draw(st.sampled_from((0, 3, 1440, 1440, 6144, 11520))))
    if draw(st.sampled_from((False,) * 7 + (True,))):
        body = pickle.dumps(_Called())
    return _made(f"{text[:80]!a} of version {major}", b"\x93NUMPY" + bytes((major, minor)) + packed + inner + body)


class _Called:
    def __reduce__(self):
        return (print, ("called",))


def _bytes(rng):
    """Damaged arrays, and archives and pickles that are called as if they were some."""
    files = bases.files("photos")
    name = rng.choice(NAMES)
    if name == "archive.npz" and rng.random() < 0.8:
        kind = rng.choice(("as it is", "paths", "damaged"))
        found = zips.members(files[name])
        if kind == "paths":
            found = [(rng.choice(("/etc/passwd.npy", "../photos/rgb.png", "**/*.png", "*", "-")), found[0][1])]
        data = zips.damaged(files[name], rng)[0] if kind == "damaged" else zips.rebuilt(found)
        return _made(f"an archive, {kind}", data)
    if rng.random() < 0.2:
        made = io.BytesIO()
        values, kind = rng.choice((float("nan"), float("inf"), 3e38, -1e300)), rng.choice(("<f4", "<f8"))
        with np.errstate(over="ignore"):
            np.save(made, np.full((1, 3, 16, 16), np.float64(values)).astype(kind))
        return _made(f"{values} throughout", made.getvalue())
    data, what = plain.damaged(files[name], rng)
    return _made(f"{name}: {what}", data)


SUBJECTS = (Subject("array", 7, _headers(), _bytes),)
