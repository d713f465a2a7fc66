"""Zip files: their directories, headers and members changed so that they lie, overlap, repeat, swell or hide."""

import bz2
import io
import lzma
import struct
import warnings
import zipfile
import zlib
from functools import cache

from . import plain

# (name, offset, format) of the fields behind the signatures of a member's header, of its entry in the directory, and of
# the directory's end (APPNOTE.TXT 4.3.7, 4.3.12, 4.3.16).
_LOCAL = (
    ("version", 4, "H"), ("flags", 6, "H"), ("method", 8, "H"), ("crc", 14, "I"), ("packed size", 18, "I"),
    ("size", 22, "I"), ("name length", 26, "H"), ("extra length", 28, "H"),
)  # fmt: skip
_ENTRY = (
    ("made by", 4, "H"), ("version", 6, "H"), ("flags", 8, "H"), ("method", 10, "H"), ("date", 14, "H"),
    ("crc", 16, "I"),
    ("packed size", 20, "I"), ("size", 24, "I"), ("name length", 28, "H"), ("extra length", 30, "H"),
    ("comment length", 32, "H"), ("disk", 34, "H"), ("attributes", 38, "I"), ("offset", 42, "I"),
)  # fmt: skip
_END = (
    ("disk", 4, "H"), ("entries here", 8, "H"), ("entries", 10, "H"), ("directory size", 12, "I"),
    ("directory offset", 16, "I"), ("comment length", 20, "H"),
)  # fmt: skip
_METHODS = (0, 1, 6, 8, 9, 12, 14, 93, 95, 98, 99)
_NAMES = (
    b"../up", b"/etc/passwd", b"a\\b", b"C:x", b"domain.json", b"weights.safetensors", b"domain.json/", b"\xff\xfe",
    b"", b"a\0b", b"\x1b[2J", b"x" * 60000, b"./domain.json", b"DOMAIN.JSON",
)  # fmt: skip


def damaged(data, rng):
    """A zip file changed in one of these ways; often in one that leaves its other members right."""
    change = rng.choice(
        (_field,) * 6 + (_rebuilt,) * 3 + (_bomb, _extra, _renamed, _renamed, _repeated, _shifted, _plain)
    )
    try:
        return change(data, rng)
    except (zipfile.BadZipFile, struct.error, ValueError, IndexError, NotImplementedError, EOFError):
        return plain.damaged(data, rng)


def _records(data, signature):
    at, found = data.find(signature), []
    while at >= 0:
        found.append(at)
        at = data.find(signature, at + 4)
    return found


def _field(data, rng):
    made, done = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2))):
        signature, fields = rng.choice(
            ((b"PK\x03\x04", _LOCAL), (b"PK\x01\x02", _ENTRY), (b"PK\x01\x02", _ENTRY), (b"PK\x05\x06", _END))
        )
        at = rng.choice(_records(data, signature))
        name, offset, kind = rng.choice(fields)
        value = rng.choice(_METHODS) if name == "method" else rng.choice(plain.NUMBERS)
        if rng.random() < 0.3:
            value = struct.unpack_from("<" + kind, made, at + offset)[0] + rng.choice((-1, 1))
        if name == "flags":
            value = 1 << rng.randrange(16)
        struct.pack_into("<" + kind, made, at + offset, value % 2 ** (16 if kind == "H" else 32))
        done.append(f"zip {name} at {at} is {value}")
        if fields is _ENTRY and rng.random() < 0.5:
            # The member's own header says the same.
            same = [(o, k) for n, o, k in _LOCAL if n == name]
            local = struct.unpack_from("<I", data, at + 42)[0]
            for o, k in same:
                struct.pack_into("<" + k, made, local + o, value % 2 ** (16 if k == "H" else 32))
    return bytes(made), ", ".join(done)


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def rebuilt(found, rng=None, method=zipfile.ZIP_STORED):
    """The bytes of a zip of these (name, bytes)."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in found:
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = rng.choice((0, 8, 12, 14)) if rng else method
            archive.writestr(info, data)
    return made.getvalue()


def _rebuilt(data, rng):
    """Members packed by other methods, out of order, gone, damaged, with others beside them."""
    found = members(data)
    kind = rng.choice(("packed", "shuffled", "gone", "damaged", "more", "inside"))
    if kind == "gone":
        found.pop(rng.randrange(len(found)))
    elif kind == "shuffled":
        rng.shuffle(found)
    elif kind == "damaged":
        at = rng.randrange(len(found))
        found[at] = (found[at][0], plain.damaged(found[at][1], rng)[0])
    elif kind == "more":
        found += [("../outside", b"x"), ("more/", b""), ("\u00e9\n", b"x")][: rng.randrange(1, 4)]
    elif kind == "inside":
        found = [("folder/" + name, data) for name, data in found]
    return rebuilt(found, rng if kind == "packed" else None), f"zip members {kind}"


def _bomb(data, rng):
    """A member that says it is small, or as large as it should be, and unpacks to much more."""
    found = members(data)
    at = rng.randrange(len(found))
    method = rng.choice((8, 8, 8, 12, 14))
    size = rng.choice((50, 1100) if method == 8 else (50, 50, 300)) << 20
    packed = _packed(method, size)
    done = []
    made = bytearray(rebuilt([(name, packed if n == at else inner) for n, (name, inner) in enumerate(found)]))
    said = rng.choice((len(found[at][1]), 1000, size))
    for signature, fields in ((b"PK\x03\x04", _LOCAL), (b"PK\x01\x02", _ENTRY)):
        where = _records(made, signature)[at]
        offsets = {name: (offset, kind) for name, offset, kind in fields}
        for name, value in (("method", method), ("size", said), ("crc", rng.getrandbits(32))):
            offset, kind = offsets[name]
            struct.pack_into("<" + kind, made, where + offset, value)
    done.append(f"zip member {found[at][0]}, method {method}, unpacks to {size} bytes and says {said}")
    return bytes(made), done[0]


@cache
def _packed(method, size):
    """Zeros: so many bytes of them, a multiple of 2^20."""
    step = bytes(1 << 20)
    if method == 8:
        maker = zlib.compressobj(9, 8, -15)
        # Behind a full flush nothing depends on what stood before it, so the same bytes may follow again.
        one = maker.compress(step) + maker.flush(zlib.Z_FULL_FLUSH)
        return one * (size >> 20) + maker.flush()
    if method == 12:
        return bz2.compress(bytes(size), 1)
    # What a zip puts before LZMA's own bytes: a version, the length of the properties, and these.
    start = struct.pack("<BBHBI", 9, 4, 5, (2 * 5 + 0) * 9 + 3, 1 << 18)
    return start + lzma.compress(bytes(size), lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA1, "preset": 0}])


def _extra(data, rng):
    """An extra field in the directory: ZIP64 sizes, an encryption, a length that is too long."""
    at = rng.choice(_records(data, b"PK\x01\x02"))
    name_length = struct.unpack_from("<H", data, at + 28)[0]
    kind = rng.choice((1, 0x9901, 0x5455, 0x7075))
    body = rng.choice((b"", struct.pack("<QQQ", 2**40, 2**40, 0), struct.pack("<Q", 2**63), rng.randbytes(9)))
    extra = struct.pack("<HH", kind, rng.choice((len(body), len(body) + 1, 65535))) + body
    made = bytearray(data[: at + 46 + name_length] + extra + data[at + 46 + name_length :])
    struct.pack_into("<H", made, at + 30, len(extra))
    if kind == 1:
        struct.pack_into("<II", made, at + 20, 2**32 - 1, 2**32 - 1)
    end = made.rfind(b"PK\x05\x06")
    struct.pack_into("<I", made, end + 12, struct.unpack_from("<I", made, end + 12)[0] + len(extra))
    return bytes(made), f"zip extra field {kind:#x}"


def _renamed(data, rng):
    """A member's name in the directory, in its header, or in both."""
    found = members(data)
    at, name = rng.randrange(len(found)), rng.choice(_NAMES)
    placeholder = "y" * len(name)
    named = [((placeholder or "z") if n == at else old, inner) for n, (old, inner) in enumerate(found)]
    made = bytearray(rebuilt(named))
    where = {"local": _records(made, b"PK\x03\x04")[at] + 30, "entry": _records(made, b"PK\x01\x02")[at] + 46}
    for place in rng.choice((("local", "entry"), ("entry",), ("local",))):
        made[where[place] : where[place] + len(name)] = name
        if rng.random() < 0.5:
            made[where[place] - (30 - 7 if place == "local" else 46 - 9)] |= 8  # it says that it is UTF-8
    return bytes(made), f"zip member {found[at][0]} is called {name[:20]!r}"


def _repeated(data, rng):
    """A name twice, with other bytes; zip readers differ in which they take."""
    found = members(data)
    name, inner = found[rng.randrange(len(found))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = (name, plain.damaged(inner, rng)[0])
        return rebuilt([other, *found] if rng.random() < 0.5 else [*found, other]), f"zip member {name} twice"


def _shifted(data, rng):
    """Something before it, or behind it."""
    more = rng.choice((b"#!/bin/sh\n", rng.randbytes(70), b"PK\x05\x06" + bytes(18)))
    return (more + data, "before a zip") if rng.random() < 0.5 else (data + more, "behind a zip")


def _plain(data, rng):
    return plain.damaged(data, rng)
