"""Values that are hard on who reads them: for JSON, TOML, file names and command lines. Strategies of hypothesis."""

from hypothesis import strategies as st

STRINGS = (
    "",
    " ",
    ".",
    "..",
    "/",
    "../../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    "CON",
    "nul.txt",
    "-",
    "--",
    "-x",
    "a\nb",
    "a\rb",
    "a\tb",
    "\0",
    "a\0b",
    "\x1b[2J\x1b[31mred",
    "\x7f\x80\x9b",
    "\u2028\u2029",
    "\u202e backwards",
    "\ufeff",
    "\ud800",
    "a\udcff",
    "é",
    "e\u0301",
    "日本語",
    "😀",
    "x" * 65,
    "x" * 5000,
    "%s%n%d",
    "{0} {x}",
    "$(touch x)`",
    "nan",
    "NaN",
    "inf",
    "-1",
    "1e400",
    "0x10",
    "True",
    "null",
    "batch",
    "image",
    "logits",
    "domain:head.weight",
    "domain:",
    "__proto__",
    "weights.safetensors",
    "DIGITS",
    "flowers",
    "signs",
)
INTEGERS = (
    -1,
    0,
    1,
    2,
    3,
    7,
    8,
    255,
    256,
    65535,
    65536,
    10**6,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
)
INTEGERS += (-(2**31), -(2**63), 10**20, 10**400)
FLOATS = (0.0, -0.0, 0.5, 1.0, 1.5, -1.5, 1e-320, 1e-30, 1e-3, 1e30, 1e308, -1e308, 0.1 + 0.2)


def texts():
    """Strings, most of them hard, none longer than some thousand characters."""
    drawn = st.text(st.characters(exclude_categories=()), max_size=20)
    return st.sampled_from(STRINGS) | drawn


def numbers():
    return st.sampled_from(INTEGERS) | st.sampled_from(FLOATS) | st.integers(-(2**70), 2**70) | st.floats()


def plain():
    return st.none() | st.booleans() | numbers() | texts()


def nested():
    """Anything JSON can hold, not too large."""
    return st.recursive(
        plain(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(), inner, max_size=4), max_leaves=8
    )
