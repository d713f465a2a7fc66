"""JSON documents whose structure is damaged, entry by entry, and then perhaps the text they are written as."""

import copy
import json

from hypothesis import strategies as st

from .texts import INTEGERS, nested, numbers, texts


def places(content, path=()):
    """The path of every entry: keys and indices."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def damaged(draw, content, least=1, most=3):
    """(a changed copy of a JSON object, what was done)."""
    content = copy.deepcopy(content)
    done = []
    for _ in range(draw(st.integers(least, most)) if most > 1 else least):
        found = list(places(content))
        if not found:
            break
        path = draw(st.sampled_from(found))
        owner = content
        for key in path[:-1]:
            owner = owner[key]
        done.append(f"{'.'.join(map(str, path))}: {_change(draw, content, owner, path[-1], found)}"[:120])
    return content, "; ".join(done)


def _change(draw, content, owner, key, found):
    old = owner[key]
    kind = draw(
        st.sampled_from(("value", "value", "number", "text", "near", "gone", "copied", "twice", "renamed", "many"))
    )
    if kind == "gone":
        del owner[key]
    elif kind == "number" or (kind == "near" and not isinstance(old, (int, float))):
        owner[key] = draw(numbers())
    elif kind == "near":
        owner[key] = _NEAR[draw(st.sampled_from(sorted(_NEAR)))](old)
    elif kind == "text":
        owner[key] = draw(texts())
    elif kind == "copied":
        other = content
        for step in draw(st.sampled_from(found)):
            other = other[step]
        owner[key] = copy.deepcopy(other)
    elif kind == "twice" and isinstance(owner, list):
        owner.insert(key, copy.deepcopy(old))
    elif kind == "renamed" and isinstance(owner, dict):
        owner[draw(texts())] = owner.pop(key)
    elif kind == "many":
        count = draw(st.sampled_from((0, 2, 100, 10000 if len(found) < 1000 else 3)))
        owner[key] = (old if isinstance(old, list) else [old]) * count
    else:
        owner[key] = draw(nested())
    return kind


_NEAR = {
    "more": lambda old: old + 1,
    "less": lambda old: old - 1,
    "negative": lambda old: -old,
    "double": lambda old: old * 2,
    "much more": lambda old: old * 1000,
    "broken": lambda old: old % 10**9 / 3,
    "text": str,
    "list": lambda old: [old],
}


@st.composite
def written(draw, content):
    """(the bytes of a JSON object, most often as they should be, else damaged in ways that only text can be)."""
    try:
        text = json.dumps(content)
    except (ValueError, RecursionError):
        text = "{}"
    kind = draw(st.sampled_from(("plain",) * 12 + _TEXT_DAMAGE))
    if kind == "plain":
        return text.encode(), ""
    if kind == "raw":
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "surrogatepass"), "written as it is"
    if kind == "constant":
        return _replaced(
            draw, text, draw(st.sampled_from(("NaN", "Infinity", "-Infinity", "1e400", "1" * 5000)))
        ), "no number"
    if kind == "nested":
        depth = draw(st.sampled_from((50, 900, 5000, 100_000)))
        opened, closed = draw(st.sampled_from((("[", "]"), ('{"a":', "}"))))
        inner = opened * depth + "1" + closed * depth
        return _replaced(draw, text, inner), f"{depth} deep"
    if kind == "keys":
        more = f'{{"format": {draw(st.sampled_from(INTEGERS[:8]))}, "name": "x", '
        return text.replace("{", more, draw(st.integers(1, 3))).encode(), "keys twice"
    if kind == "encoding":
        name = draw(st.sampled_from(("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7")))
        return json.dumps(content, ensure_ascii=name != "latin-1").encode(name, "replace"), name
    if kind == "cut":
        return text[: draw(st.integers(0, len(text)))].encode(), "cut"
    if kind == "behind":
        return (text + draw(st.sampled_from((" x", "{}", "\0", "\n" * 9, " " * 2**20)))).encode(), "more behind it"
    return b"\xff" + text.encode(), "not UTF-8"


_TEXT_DAMAGE = ("raw", "constant", "constant", "nested", "keys", "encoding", "cut", "behind", "byte")


def _replaced(draw, text, inner):
    """The text with another value in the place of one of its numbers or strings."""
    found = [i for i, c in enumerate(text) if c == ":"]
    if not found:
        return inner.encode()
    at = draw(st.sampled_from(found))
    end = min((i for i in (text.find(c, at) for c in ",}") if i >= 0), default=len(text))
    return (text[: at + 1] + inner + text[end:]).encode()
