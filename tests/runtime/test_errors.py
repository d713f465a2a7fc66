"""Messages are one printable line of bounded length, whatever they quote."""

import pickle

import pytest

from da3.runtime.errors import BundleError, Da3Error, printable, quoted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, and é, and 日本", "plain, and é, and 日本"),
        ("\x1b[2J gone", r"\x1b[2J gone"),
        ("one\nerror: another\r", r"one\nerror: another\r"),
        ("no text: \udcff", r"no text: \udcff"),
        ("right to left \u202e", r"right to left \u202e"),
    ],
)
def test_a_message_is_printable(text, shown):
    assert printable(text) == str(BundleError(text)) == shown
    shown.encode("utf-8")


def test_a_message_is_bounded_and_keeps_its_beginning_and_its_end():
    text = str(Da3Error("bundle: classes %s; export it again" % (["daisy"] * 10000)))
    assert text.startswith("bundle: classes ['daisy'") and text.endswith("; export it again")
    assert len(text) <= 480


def test_a_message_survives_the_way_between_processes():
    text = str(BundleError("line\nline " + "x" * 5000))
    assert str(pickle.loads(pickle.dumps(BundleError(text)))) == text


@pytest.mark.parametrize("value", ["x" * 10**6, [[["x"] * 10**5] * 9] * 9, dict.fromkeys(range(9), "y" * 900), 2**63])
def test_what_is_quoted_is_bounded(value):
    nested = value
    for _ in range(300):
        nested = [nested]
    assert len(quoted(value)) <= 80 and len(quoted(nested, 40)) <= 40


def test_what_is_quoted_is_as_python_writes_it():
    assert quoted("a\n") == r"'a\n'" and quoted([1, "b"]) == "[1, 'b']" and quoted(None) == "None"
