"""How large a JPEG is, from its header alone (ITU-T T.81, annex B)."""

from typing import Optional, Tuple

_ALONE = {0x01} | set(range(0xD0, 0xD9))  # markers that no length follows
_NO_FRAME = {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC, in the midst of the frame headers SOF0 to SOF15


def jpeg_size(data: bytes) -> Optional[Tuple[int, int]]:
    """The height and width of a JPEG, as it is stored; None for anything else, and where the header does not say."""
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _ALONE:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = (int.from_bytes(data[at + n : at + n + 2], "big") for n in (5, 7))
            return (height, width) if height and width else None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
