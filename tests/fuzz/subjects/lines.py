"""Command lines: the words of every command that starts nothing long, with values that nobody should give.

What is written goes below the case's folder: names that lead elsewhere are only given to what reads.
"""

from hypothesis import strategies as st

from ..child import case as cases
from ..damage import texts
from . import Subject

_READ = (
    "bundle",
    "zipped.zip",
    "photo.png",
    "photos",
    "tulips.da3",
    "earlier.json",
    "list.csv",
    "nowhere",
    ".",
    "",
    "/dev/null",
    "runs",
    "bundle/domains/flowers",
    "bundle/manifest.json",
    "~nobody",
    "photos/*",
    "[",
    "**",
)
_WRITTEN = (
    "out",
    "out/deep",
    "photo.png",
    "photos",
    "bundle",
    "bundle/manifest.json",
    "",
    ".",
    "é",
    "a\nb",
    "x" * 300,
    "zipped.zip/x",
)
_PLAIN = (
    "0",
    "1",
    "2",
    "-1",
    "0.5",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "9" * 50,
    "1:8",
    "8:1",
    "0:0",
    "a:b",
    "x",
    "",
    "1,2",
    "5MB",
    "5XB",
    "-5MB",
    "1e99GB",
    "auto",
    "fp32",
    "fp16",
    "int8",
    "onnxruntime",
    "reference",
    "flowers",
    "signs",
    "CON",
    "../x",
    "x" * 300,
)

# (command, words it always gets, options that read, that write, that take a value, that take none)
_COMMANDS = (
    (
        "run-engine",
        ("photo.png",),
        ("--bundle", "--domain", "--engines"),
        ("--save-json", "--save-csv", "--save-pictures", "--to"),
        ("--unsure-below", "--top-k", "--batch-size", "--threads", "--backend", "--precision", "--repeat", "--warmup"),
        ("--json", "--force-all-blocks", "--debug", "-h"),
    ),
    (
        "evaluate",
        ("photos",),
        ("--bundle", "--domain", "--against", "--against-bundle"),
        ("--json", "--csv"),
        (
            "--min-accuracy",
            "--against-precision",
            "--against-backend",
            "--batch-size",
            "--workers",
            "--threads",
            "--backend",
            "--precision",
        ),
        ("--force-all-blocks", "--against-all-blocks"),
    ),
    ("domains list", (), ("--bundle",), (), (), ()),
    ("domains info", (), ("--bundle",), (), (), ("--json",)),
    ("domains add", (), ("--bundle",), (), (), ("--replace",)),
    ("domains remove", (), (), (), (), ()),
    ("domains pack", (), ("--bundle",), ("--out",), (), ()),
    ("build", (), ("--bundle",), ("--engines",), ("--precision", "--batch", "--workspace"), ("--force",)),
    ("pyz", (), (), (), (), ()),
    (
        "learn",
        (),
        ("--bundle", "--from"),
        ("--runs",),
        (
            "--domain",
            "--epochs",
            "--keep",
            "--batch-size",
            "--lr",
            "--seed",
            "--label-smoothing",
            "--micro-batch",
            "--memory-budget",
            "--backend",
            "--precision",
            "--threads",
            "--workers",
        ),
        ("--no-flip", "--resume", "--overwrite", "--verbose", "--quiet"),
    ),
    ("runs", (), ("--runs",), (), (), ("--json",)),
    ("export", ("--domain", "ferns"), ("--runs", "--config"), ("--standalone",), ("--domain",), ("--quiet",)),
    ("calibrate", (), ("--bundle", "--data"), (), ("--domain", "--goal", "--batch-size"), ("--int8",)),
    (
        "config train",
        ("--domain", "ferns"),
        ("--config", "--from", "--data"),
        ("--runs",),
        (
            "--keep",
            "--epochs",
            "--size",
            "--lr",
            "--seed",
            "--micro-batch",
            "--engine",
            "--memory-budget",
            "--backbone",
        ),
        ("--flip", "--resume", "--verbose", "--quiet"),
    ),
    ("", (), (), (), (), ("--version", "--help", "--debug", "-x", "nothing")),
)
_TOOLCHAIN = ("runs", "export", "calibrate", "config train")


def _words():
    """No NUL, which no shell can pass, and no lone surrogates but those that stand for bytes."""
    return texts.texts().map(
        lambda text: "".join(
            c for c in text[:300] if c != "\0" and not "\ud800" <= c < "\udc80" and not "\udcff" < c <= "\udfff"
        )
    )


@st.composite
def _lines(draw, pytorch):
    """pytorch: of the commands that need it, or of the others."""
    known = [command for command in _COMMANDS if (command[0] in _TOOLCHAIN) == pytorch]
    command, always, reading, writing, values, flags = draw(st.sampled_from(known))
    words = [*command.split(), *(always if draw(st.booleans()) else ())]
    # `learn` with photos and options that are in order would learn, for minutes.
    loose = ("nowhere", "list.csv", "bundle", "") if command == "learn" else _READ
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(("read", "write", "value", "value", "flag", "loose", "odd")))
        if kind == "read" and reading:
            words += [draw(st.sampled_from(reading)), draw(st.sampled_from(_READ))]
        elif kind == "write" and writing:
            words += [draw(st.sampled_from(writing)), draw(st.sampled_from(_WRITTEN))]
        elif kind == "value" and values:
            words += [draw(st.sampled_from(values)), draw(st.sampled_from(_PLAIN) | _words())]
        elif kind == "flag" and flags:
            words.append(draw(st.sampled_from(flags)))
        elif kind == "loose":
            words.append(draw(st.sampled_from(_WRITTEN if command == "pyz" else loose)))
        elif command not in ("pyz", "learn"):
            words.append(draw(_words().filter(lambda word: not word.startswith(("/", "-")) and ".." not in word)))
    runner = "toolchain" if command in _TOOLCHAIN else "command"
    name = "command line: PyTorch" if pytorch else "command line"
    return cases.case(name, " ".join(words)[:120], "exits", runner, words, stdin=b"photo.png\n")


SUBJECTS = (
    Subject("command line", 8, _lines(False), None),
    Subject("command line: PyTorch", 3, _lines(True), None),
)
