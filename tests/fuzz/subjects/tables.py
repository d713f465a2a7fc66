"""Lists of labelled photos as CSV, records of evaluations as JSON, and lists of paths on stdin."""

import json

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import documents, plain, texts
from . import Subject

CLASSES = ("flowers_0", "flowers_1", "flowers_2")
EVALUATE = ("evaluate", "-d", "flowers", "-b", "bundle", "--threads", "1", "--workers", "0", "--backend", "onnxruntime")


def _table(what, data, command):
    runner, words = ("command", (*EVALUATE, "list.csv")) if command else ("labelled", ("list.csv", *CLASSES))
    return cases.case("CSV", what, "exits", runner, words, [cases.file("list.csv", data)])


@st.composite
def _rows(draw):
    lines = bases.files("exits")["list.csv"].decode().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        path = draw(
            st.sampled_from(("photos/flowers_0/0.png", "photos", "list.csv", "/dev/null", "photos/*")) | texts.texts()
        )
        label = draw(st.sampled_from(CLASSES) | texts.texts())
        mark = draw(st.sampled_from((",", ";", "\t", "|", ",,", '","')))
        line = draw(
            st.sampled_from(
                (f"{path}{mark}{label}", f'"{path}"{mark}"{label}', f'"{path}{mark}{label}', path, "path,path,label")
            )
        )
        lines.insert(draw(st.integers(0, len(lines))), line)
    end = draw(st.sampled_from(("\n", "\r\n", "\r", "\n\n")))
    encoding = draw(st.sampled_from(("utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1")))
    data = end.join(lines).encode(encoding, "surrogatepass" if encoding.startswith("utf-8") else "replace")
    return _table("rows", data, draw(st.sampled_from((False,) * 5 + (True,))))


def _bytes(rng):
    data, what = plain.damaged(bases.files("exits")["list.csv"], rng)
    if rng.random() < 0.05:
        data, what = data + b"x" * 200_000 + b"," + b'"' + b"y\n" * 70_000, "long cells"
    return _table(what, data, command=rng.random() < 0.2)


def _record(what, data, command):
    words = (*EVALUATE, "photos", "--against", "earlier.json")
    use = ("command", words) if command else ("record", ("earlier.json",))
    return cases.case("record", what, "exits", *use, [cases.file("earlier.json", data)])


@st.composite
def _records(draw):
    content, what = draw(documents.damaged(json.loads(bases.files("exits")["earlier.json"])))
    data, how = draw(documents.written(content))
    return _record(f"{what} {how}", data, draw(st.booleans()))


def _record_bytes(rng):
    data, what = plain.damaged(bases.files("exits")["earlier.json"], rng)
    return _record(what, data, rng.random() < 0.5)


@st.composite
def _paths(draw):
    """Paths on stdin, and folders of pictures that hold what is none."""
    found = st.sampled_from(
        (
            "photo.png",
            "photos",
            "photos/**",
            "list.csv",
            "bundle",
            "odd.png",
            "pipe.png",
            "loop",
            "loop/*",
            "[",
            "**/*.png",
        )
    )
    lines = draw(st.lists(found | texts.texts(), min_size=1, max_size=4))
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    kind = draw(st.sampled_from(("plain", "plain", "bytes", "cut")))
    data = {"bytes": data + b"\n\xff\xfe.png", "cut": data[:-1]}.get(kind, data)
    entries = [cases.Entry("pipe.png", cases.PIPE, b"")] * draw(st.booleans())
    entries += [cases.Entry("loop/again", cases.LINK, b"..")] * draw(st.booleans())
    entries += [
        cases.Entry("odd.png", cases.LINK, draw(st.sampled_from((b"/dev/zero", b"/dev/null", b"photos", b"odd.png"))))
    ]
    words = draw(
        st.sampled_from(
            (
                ("-",),
                ("-", "loop"),
                ("loop", "-"),
                ("pipe.png", "photo.png"),
                ("odd.png", "photo.png"),
                ("photos", "loop"),
            )
        )
    )
    run = ("run-engine", *words, "-d", "flowers", "-b", "bundle", "--threads", "1", "--backend", "onnxruntime")
    return cases.case("paths", repr(lines)[:100], "exits", "command", run, entries, stdin=data)


SUBJECTS = (
    Subject("CSV", 4, _rows(), _bytes),
    Subject("record", 4, _records(), _record_bytes),
    Subject("paths", 3, _paths(), None),
)
