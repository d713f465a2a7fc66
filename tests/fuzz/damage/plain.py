"""Bytes changed without a thought for what they mean: flips, cuts, splices, and numbers that are too large."""

import struct

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
NUMBERS_64 = (2**32, 2**33, 2**40, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def damaged(data, rng, most=4):
    """The data after one to ``most`` changes."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2, most))):
        change = rng.choice(_CHANGES)
        data, what = change(data, rng)
        done.append(what)
    return data, ", ".join(done)


def _at(data, rng):
    # What says how a file is to be read lies at its beginning.
    return rng.randrange(min(len(data), 64) if rng.random() < 0.4 else len(data)) if data else 0


def _flip(data, rng):
    if not data:
        return data, "nothing to flip"
    at, bit = _at(data, rng), rng.randrange(8)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :], f"bit {bit} of byte {at} flipped"


def _byte(data, rng):
    at, value = _at(data, rng), rng.choice((0, 1, 10, 13, 32, 34, 45, 47, 48, 92, 127, 128, 192, 239, 255))
    return data[:at] + bytes([value]) + data[at + 1 :], f"byte {at} is {value}"


def _number(data, rng):
    at = _at(data, rng)
    size = rng.choice((2, 4, 4, 8))
    value = rng.choice(NUMBERS + NUMBERS_64 if size == 8 else NUMBERS) % 2 ** (8 * size)
    packed = struct.pack(rng.choice("<>") + {2: "H", 4: "I", 8: "Q"}[size], value)
    return data[:at] + packed + data[at + size :], f"{size} bytes at {at} are {value}"


def _nudge(data, rng):
    at = _at(data, rng)
    piece = data[at : at + 4]
    if len(piece) < 4:
        return data, "nothing to nudge"
    order = rng.choice("<>")
    value = (struct.unpack(order + "I", piece)[0] + rng.choice((-256, -1, 1, 2, 256))) % 2**32
    return data[:at] + struct.pack(order + "I", value) + data[at + 4 :], f"the number at {at} is {value}"


def _cut(data, rng):
    at = rng.randrange(len(data) + 1)
    return data[:at], f"cut at {at} of {len(data)}"


def _gone(data, rng):
    at = _at(data, rng)
    length = rng.choice((1, 2, 4, 16, 64))
    return data[:at] + data[at + length :], f"{length} bytes gone at {at}"


def _more(data, rng):
    at, length = _at(data, rng), rng.choice((1, 3, 8, 100))
    return data[:at] + rng.randbytes(length) + data[at:], f"{length} random bytes at {at}"


def _twice(data, rng):
    at, length = _at(data, rng), rng.choice((1, 8, 64, 512))
    return data[: at + length] + data[at:], f"{length} bytes twice at {at}"


def _splice(data, rng):
    at, source, length = _at(data, rng), _at(data, rng), rng.choice((4, 16, 64))
    return data[:at] + data[source : source + length] + data[at + length :], f"{length} bytes of {source} at {at}"


def _same(data, rng):
    at, length, value = _at(data, rng), rng.choice((4, 16, 256)), rng.choice((0, 255))
    return data[:at] + bytes([value]) * length + data[at + length :], f"{length} bytes at {at} are {value}"


def _behind(data, rng):
    length = rng.choice((1, 4, 1000))
    return data + rng.randbytes(length), f"{length} random bytes at the end"


def _empty(data, rng):
    return b"", "empty"


_CHANGES = (_flip,) * 4 + (_byte,) * 3 + (_number,) * 4 + (_nudge,) * 3 + (_cut,) * 2
_CHANGES += (_gone, _more, _twice, _splice, _same, _behind)
_CHANGES = _CHANGES * 4 + (_empty,)
