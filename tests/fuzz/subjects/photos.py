"""Pictures of seven formats, in every colour mode and way of packing that they have."""

import struct
import zlib

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import plain
from . import Subject

_SIDES = (0, 1, 2, 3, 100, 9000, 65000, 65535, 400_000, 2**24, 2**31 - 1, 2**32 - 1)
RUN = ("run-engine", "-d", "flowers", "-b", "bundle", "--json", "--backend", "onnxruntime", "--threads", "1")


def names():
    return [name for name in bases.files("photos") if not name.endswith((".npy", ".npz"))]


def _made(what, name, data, command=False, size=16):
    if command:
        return cases.case("photo", f"{name}: {what}", "exits", "command", (*RUN, name), [cases.file(name, data)])
    return cases.case("photo", f"{name}: {what}", "photos", "pictures", (str(size), name), [cases.file(name, data)])


@st.composite
def _headers(draw):
    """A picture whose header says another size, which its pixels may even have."""
    width, height = draw(st.sampled_from(_SIDES)), draw(st.sampled_from(_SIDES))
    kind = draw(st.sampled_from(sorted(_MADE)))
    data = _MADE[kind](draw, width, height)
    size = draw(st.sampled_from((1, 16, 32, 224)))
    return _made(f"{width} x {height}", f"made.{kind}", data, draw(st.sampled_from((False,) * 9 + (True,))), size)


def _png(draw, width, height):
    depth, colour = draw(st.sampled_from(((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (1, 3), (8, 4), (8, 6), (9, 7))))
    rows = min(height, draw(st.sampled_from((0, 1, 70_000))))
    packed = zlib.compressobj(1)
    line = bytes(1 + min(width * depth // 8 + 1, 2**20))
    body = b"".join([packed.compress(line) for _ in range(min(rows, 2**24 // len(line) + 1))] + [packed.flush()])
    chunks = [
        (
            b"IHDR",
            struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, draw(st.sampled_from((0, 1)))),
        )
    ]
    if colour == 3:
        chunks.append((b"PLTE", bytes(6)))
    extra = draw(
        st.sampled_from(
            (
                None,
                (b"zTXt", b"k\0\0" + zlib.compress(bytes(2**22))),
                (b"iCCP", b"k\0\0" + zlib.compress(bytes(2**22))),
                (b"eXIf", b"II*\0\x08\0\0\0\xff\xff"),
                (b"tRNS", b"\0\1"),
                (b"acTL", bytes(8)),
            )
        )
    )
    chunks += [extra] * (extra is not None) + [(b"IDAT", body), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(inner)) + name + inner + struct.pack(">I", zlib.crc32(name + inner))
        for name, inner in chunks
    )


def _ppm(draw, width, height):
    kind, most = (
        draw(st.sampled_from((b"P6", b"P5", b"P4", b"P3", b"P1", b"Pf"))),
        draw(st.sampled_from((0, 1, 255, 65535, 65536))),
    )
    return b"%s\n%d %d\n%d\n" % (kind, width, height, most) + bytes(draw(st.sampled_from((0, 3, 1000, 300_000))))


def _bmp(draw, width, height):
    bits, packed = draw(st.sampled_from((1, 4, 8, 16, 24, 32))), draw(st.sampled_from((0, 1, 2, 3)))
    height = draw(st.sampled_from((height, -height)))
    head = struct.pack("<IiiHHIIiiII", 40, _signed(width), _signed(height), 1, bits, packed, 0, 1, 1, 0, 0)
    return (
        b"BM"
        + struct.pack("<IHHI", 54, 0, 0, draw(st.sampled_from((0, 54, 2**31))))
        + head
        + bytes(draw(st.sampled_from((0, 1000, 10**6))))
    )


def _signed(value):
    return (value + 2**31) % 2**32 - 2**31


def _gif(draw, width, height):
    screen = struct.pack("<HHBBB", min(width, 65535), min(height, 65535), 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, min(width, 65535), min(height, 65535), 0) + b"\x02\x02\x4c\x01\x00"
    return b"GIF89a" + screen + frame * draw(st.sampled_from((0, 1, 3))) + b";"


def _tif(draw, width, height):
    """One strip, with tags that lie about it."""
    count = draw(st.sampled_from((1, 3, 4, 65535)))
    packed = draw(st.sampled_from((1, 2, 3, 4, 5, 6, 7, 8, 32773, 34925, 50000)))
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 1, draw(st.sampled_from((1, 8, 16, 32, 64)))),
        (259, 3, 1, packed),
        (262, 3, 1, draw(st.integers(0, 9))),
        (273, 4, 1, draw(st.sampled_from((0, 8, 200, 2**32 - 1)))),
        (277, 3, 1, count),
        (278, 4, 1, draw(st.sampled_from((1, height % 2**32)))),
        (279, 4, 1, draw(st.sampled_from((0, 100, 2**32 - 1)))),
        (draw(st.sampled_from((274, 317, 320, 330, 34665))), 4, draw(st.sampled_from((1, 2, 2**31))), 8),
    ]
    tags = [(tag, kind, n, value % 2 ** (16 if kind == 3 else 32)) for tag, kind, n, value in sorted(tags)]
    folder = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (
        b"II*\0\x08\0\0\0"
        + folder
        + struct.pack("<I", draw(st.sampled_from((0, 8))))
        + bytes(draw(st.sampled_from((0, 400, 10**6))))
    )


def _jpg(draw, width, height):
    """A true JPEG whose frame says another size."""
    name = draw(st.sampled_from(("baseline.jpg", "progressive.jpg", "cmyk.jpg", "large.jpg")))
    data = bytearray(bases.files("photos")[name])
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        at = data.find(marker)
        if at >= 0:
            struct.pack_into(">HH", data, at + 5, height % 65536, width % 65536)
    return bytes(data)


def _webp(draw, width, height):
    data = bytearray(bases.files("photos")[draw(st.sampled_from(("lossy.webp", "lossless.webp")))])
    at = data.find(b"VP8X")
    if at >= 0:
        data[at + 12 : at + 18] = (width % 2**24).to_bytes(3, "little") + (height % 2**24).to_bytes(3, "little")
    at = data.find(b"\x9d\x01\x2a")
    if at >= 0:
        struct.pack_into("<HH", data, at + 3, width % 16384, height % 16384)
    return bytes(data)


_MADE = {"png": _png, "ppm": _ppm, "bmp": _bmp, "gif": _gif, "tif": _tif, "jpg": _jpg, "webp": _webp}


def _bytes(rng):
    """Most are damaged; some have another's name."""
    name = rng.choice(names())
    data, what = plain.damaged(bases.files("photos")[name], rng, most=8)
    called = name if rng.random() < 0.9 else "called." + rng.choice(("jpg", "png", "tif", "gif", "webp"))
    return _made(what, called, data, command=rng.random() < 0.1)


def _chunks(rng):
    """A PNG whose chunks are damaged and have checksums that fit: all else ends at the first wrong one."""
    name = rng.choice([n for n in names() if n.endswith(".png")])
    data = bases.files("photos")[name]
    at, found = 8, []
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    index = rng.randrange(len(found))
    kind, inner = found[index]
    inner, what = plain.damaged(inner, rng)
    found[index] = (rng.choice((kind, kind, kind, b"PLTE", b"tRNS", b"iTXt", b"gAMA", b"fdAT")), inner)
    if rng.random() < 0.2:
        rng.shuffle(found)
    made = b"".join(
        struct.pack(">I", len(inner)) + kind + inner + struct.pack(">I", zlib.crc32(kind + inner))
        for kind, inner in found
    )
    return _made(f"chunk {index}: {what}", name, data[:8] + made)


def _either(rng):
    return _chunks(rng) if rng.random() < 0.15 else _bytes(rng)


SUBJECTS = (Subject("photo", 24, _headers(), _either),)
