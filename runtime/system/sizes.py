"""How numbers of bytes are written for people."""


def render_bytes(nbytes: int) -> str:
    """A number of bytes as text, in steps of 1024: 7.4 GiB, 1.5 MiB, 4 KiB."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB")):
        if nbytes >= unit:
            return "%.1f %s" % (nbytes / float(unit), name)
    return "%d KiB" % -(-nbytes // 1024)
