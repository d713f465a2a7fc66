"""A backbone's weights, as .safetensors and as .pth (zipped, and older), and files of options for `--config`."""

import io
import pickle
import pickletools
import zipfile

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import plain, tensors, texts, zips
from . import Subject

_ARCHS = ("mobilenet_v2", "mobilenet_v2", "mobilenet_v2", "resnet18", "efficientnet_lite0")


def _made(what, arch, name, data, subject="weights"):
    return cases.case(subject, f"{name}: {what}", "weights", "weights", (arch, name), [cases.file(name, data)])


@st.composite
def _headers(draw):
    data, what = draw(tensors.with_damaged_header(bases.files("weights")["small.safetensors"]))
    return _made(what, draw(st.sampled_from(_ARCHS)), "small.safetensors", data)


@st.composite
def _pickled(draw):
    """Pickles of what is no state dict, or of what must not be made: functions, classes, code to run."""
    value = draw(
        st.sampled_from(
            (_Called(print, ("x",)), _Called(open, ("made", "w")), _Called(eval, ("1",)), print, io.BytesIO, object)
        )
        | texts.nested()
    )
    content = {"features.0.0.weight": value} if draw(st.booleans()) else value
    try:
        data = pickle.dumps(content, draw(st.integers(0, 4)))
    except (pickle.PicklingError, UnicodeEncodeError, TypeError):
        data = b"\x80\x02."
    if draw(st.booleans()):
        made = io.BytesIO(bases.files("weights")["part.pth"])
        found = [(name, data if name.endswith("data.pkl") else inner) for name, inner in zips.members(made.getvalue())]
        data = zips.rebuilt(found)
    return _made(f"a pickle of {content!a}"[:100], "mobilenet_v2", "part.pth", data)


class _Called:
    def __init__(self, function, arguments):
        self.call = function, arguments

    def __repr__(self):
        return f"{self.call[0].__name__}{self.call[1]}"

    def __reduce__(self):
        return self.call


def _bytes(rng):
    files = bases.files("weights")
    name = rng.choice(("small.safetensors", "part.pth", "part.pth", "old.pth", "old.pth"))
    if name == "part.pth" and rng.random() < 0.7:
        data, what = _in_the_pickle(files[name], rng) if rng.random() < 0.6 else zips.damaged(files[name], rng)
    elif name == "small.safetensors":
        # Its tensors are much longer than its header, where most can go wrong.
        head = 8 + int.from_bytes(files[name][:8], "little")
        data, what = plain.damaged(files[name][: head + 64], rng)
        data += files[name][head + 64 :]
    else:
        data, what = plain.damaged(files[name], rng)
    return _made(what, rng.choice(_ARCHS), name, data)


def _in_the_pickle(data, rng):
    """One opcode's argument or a byte of the pickle inside the zip, whose checksums fit again."""
    found = zips.members(data)
    at = next(i for i, (name, _) in enumerate(found) if name.endswith("data.pkl"))
    pickled = bytearray(found[at][1])
    places = [place for _, _, place in pickletools.genops(bytes(pickled))]
    place = rng.choice(places) + rng.choice((0, 0, 1, 2))
    pickled[min(place, len(pickled) - 1)] = rng.randrange(256)
    found[at] = (found[at][0], bytes(pickled))
    return zips.rebuilt(found, method=zipfile.ZIP_STORED), f"byte {place} of the pickle"


_TYPED = (
    "domain",
    "epochs",
    "keep",
    "lr",
    "seed",
    "flip",
    "weights",
    "size",
    "micro-batch",
    "memory-budget",
    "train",
    "x",
    "engine",
)


@st.composite
def _options(draw):
    """`da3 config train --config`: prints what would be in effect, and trains nothing."""
    lines = bases.files("weights")["options.toml"].decode().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(_TYPED) | texts.texts())
        value = draw(
            texts.numbers().map(repr)
            | texts.texts().map(lambda text: f'"{text}"')
            | st.sampled_from(
                ("true", "[]", "{}", "[1, 2]", "{a = 1}", "1979-05-27", "nan", "0o17", "'''", "[[train]]", "[" * 5000)
            )
        )
        line = draw(st.sampled_from((f"{name} = {value}", f"[{name}]", value, f"{name} =", f"{name}.a = {value}")))
        lines.insert(draw(st.integers(0, len(lines))), line)
    data = "\n".join(lines).encode("utf-8", draw(st.sampled_from(("replace", "surrogatepass"))))
    words = ("config", draw(st.sampled_from(("train", "export"))), "--config", "options.toml")
    words += draw(st.sampled_from(((), ("--domain", "ferns"))))
    return cases.case("options", lines[-1][:80], "weights", "toolchain", words, [cases.file("options.toml", data)])


def _options_bytes(rng):
    data, what = plain.damaged(bases.files("weights")["options.toml"], rng)
    words = ("config", "train", "--config", "options.toml", "--domain", "ferns")
    return cases.case("options", what, "weights", "toolchain", words, [cases.file("options.toml", data)])


SUBJECTS = (
    Subject("weights", 6, _headers() | _pickled(), _bytes),
    Subject("options", 3, _options(), _options_bytes),
)
