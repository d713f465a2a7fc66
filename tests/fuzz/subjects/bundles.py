"""Bundles: manifest, domain.json, INT8 ranges, golden values, tensors, what lies in their folders; whole or zipped."""

import json

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import documents, hashes, plain, tensors, zips
from . import Subject

_RUN = ("run-engine", "photo.png", "-d", "flowers", "--threads", "1")
_RUNS = (
    ("--json",),
    ("--json",),
    (),
    ("--json", "--backend", "reference"),
    ("--json", "--precision", "fp16"),
    ("--json", "--top-k", "3", "--force-all-blocks"),
    ("--json", "--precision", "int8"),
)
_OTHERS = (
    ("command", ("domains", "list")),
    ("command", ("domains", "info", "flowers")),
    ("command", ("domains", "info", "flowers", "--json")),
    ("writing", ("domains", "pack", "flowers", "--out", "out.da3")),
    ("writing", ("domains", "add", "tulips.da3")),
    ("writing", ("domains", "remove", "signs")),
    ("command", ("evaluate", "photos", "-d", "flowers", "--threads", "1", "--workers", "0")),
    ("goldens", ()),
    ("starting", ("flowers",)),
)


def uses(base, where="bundle"):
    """(runner, words) of all that a bundle is used for; running it several times over."""
    backend = ("--backend", "onnxruntime")
    found = [("command", _RUN + more + (() if "--backend" in more else backend)) for more in _RUNS] * 2
    found += _OTHERS if base == "exits" else [use for use in _OTHERS if "tulips.da3" not in use[1]]
    return [
        (runner, words if runner in ("goldens", "starting") else (*words, "-b", where))
        for runner, words in found
        if where == "bundle" or runner == "command"
    ]


def made(subject, what, base, use, changed, sealed=False, others=()):
    runner, words = use
    entries = [cases.file(name, data) for name, data in sorted(changed.items())] + list(others)
    return cases.case(subject, what, base, runner, words, entries, sealed=sealed)


@st.composite
def _described(draw):
    """The documents of a bundle."""
    base = draw(st.sampled_from(("gated", "exits", "exits")))
    files = bases.files(base)
    names = [name for name in files if name.startswith("bundle/") and name.endswith(".json") and "engines" not in name]
    name = draw(st.sampled_from([*names, "bundle/manifest.json", "bundle/domains/flowers/domain.json"]))
    content, what = draw(documents.damaged(json.loads(files[name])))
    data, how = draw(documents.written(content))
    use = draw(st.sampled_from(uses(base)))
    if name.endswith("int8.json"):
        use = draw(st.sampled_from([u for u in uses(base) if "int8" in u[1]]))
    return made("bundle: documents", f"{name}: {what} {how}", base, use, hashes.in_bundle({name: data}, files))


@st.composite
def _tensors(draw):
    """Tensors and golden values, with hashes that fit."""
    base = draw(st.sampled_from(("gated", "exits")))
    files = bases.files(base)
    name = draw(st.sampled_from([n for n in files if n.startswith("bundle/") and n.endswith(".safetensors")]))
    data, what = draw(tensors.with_damaged_header(files[name]))
    use = ("goldens", ()) if "goldens" in name else draw(st.sampled_from(uses(base)))
    return made("bundle: tensors", f"{name}: {what}", base, use, hashes.in_bundle({name: data}, files))


def _bytes(rng):
    """Any file of a bundle: with hashes that do not fit, which must be seen, or that do."""
    base = rng.choice(("gated", "exits"))
    files = bases.files(base)
    name = rng.choice([n for n in files if n.startswith("bundle/") and "engines" not in n])
    data, what = plain.damaged(files[name], rng)
    hashed = name.endswith((".onnx", ".safetensors", "int8.json"))
    fits = not hashed or rng.random() < 0.7
    changed = hashes.in_bundle({name: data}, files) if fits else {name: data}
    use = ("goldens", ()) if "goldens" in name and rng.random() < 0.5 else rng.choice(uses(base))
    # The list of domains says of a damaged one that it is.
    sealed = hashed and not fits and "list" not in use[1]
    return made("bundle: bytes", f"{name}: {what}", base, use, changed, sealed=sealed)


_LINKS = (
    b"../../../../etc/passwd",
    b"/etc/passwd",
    b"/dev/zero",
    b"/dev/full",
    b".",
    b"..",
    b"nowhere",
    b"../photo.png",
)


def _folders(rng):
    """Links, pipes, folders and nothing in the places of files and folders; files in the places of folders."""
    base = rng.choice(("gated", "exits"))
    files = bases.files(base)
    places = [n for n in files if n.startswith("bundle/")]
    places += [*sorted({n.rpartition("/")[0] for n in places}), "bundle/domains/new/domain.json"]
    name, kind = rng.choice(places), rng.choice(("link", "link", "pipe", "folder", "gone", "file"))
    data = rng.choice(_LINKS) if kind == "link" else b"x" if kind == "file" else b""
    inside = [cases.Entry("photo.png", cases.FILE, files["photo.png"])]
    entries = [cases.Entry(name, kind, data), *inside]
    return made(
        "bundle: folders", f"{name} is a {kind} {data[:30]!r}", base, rng.choice(uses(base)), {}, others=entries
    )


def _zipped(rng):
    """A zipped bundle."""
    data, what = zips.damaged(bases.files("exits")["zipped.zip"], rng)
    use = rng.choice([u for u in uses("exits", "zipped.zip") if "list" in u[1] or "run-engine" in u[1]])
    return made("bundle: zipped", what, "exits", use, {"zipped.zip": data})


SUBJECTS = (
    Subject("bundle: documents", 14, _described(), None),
    Subject("bundle: tensors", 5, _tensors(), None),
    Subject("bundle: bytes", 7, None, _bytes),
    Subject("bundle: folders", 2, None, _folders),
    Subject("bundle: zipped", 4, None, _zipped),
)
