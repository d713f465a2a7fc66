"""JSON from elsewhere is taken for what it says, or refused in one line."""

import json

import pytest
from hostile import within

from da3.runtime import BundleError
from da3.runtime.bundle.jsonfile import parse_object, read_json


def test_it_reads_what_json_can_say():
    value = {
        "a": [1, -2.5e-3, 10**18, True, None, "é\n"],
        "b": {"c": {}},
        "😀": "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
    }
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert read_json(text) == read_json(text.encode()) == value


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not"),
        (b"[1e999]", "'1e999' is too large"),
        (b"[" + b"1" * 5000 + b"]", "an integer of 5000 digits"),
        (b'["\\ud800"]', "surrogates not allowed"),
        (b'{"\\udfff": 1}', "surrogates not allowed"),
        (b'["\xff"]', "can't decode byte 0xff"),
        (b"[" * 65 + b"]" * 65, "more than 64 objects or lists in each other"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "more than 64 objects"),
        (b"[" * 100000, "more than 64 objects"),
        (b'"' + b"x" * (4 << 20) + b'"', "more than 4.0 MiB"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"", "Expecting value"),
    ],
)
def test_it_refuses_the_rest(data, what):
    with pytest.raises(ValueError, match=what) as caught:
        read_json(data)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
    with pytest.raises(BundleError, match="f.json is not valid JSON"):
        parse_object(data, "f.json")


def test_what_da3_alone_reads_may_not_be_finite():
    assert str(read_json(b'{"loss": NaN}', finite=False)) == "{'loss': nan}"


def test_depth_is_what_lies_in_each_other_not_side_by_side():
    assert len(read_json("[" + ",".join(["[]"] * 1000) + "]")) == 1000
    assert read_json("[" * 64 + "]" * 64)


def test_a_large_value_is_not_written_out_to_say_what_it_is():
    obj = parse_object(json.dumps({"name": [["x" * 1000] * 500] * 3, "text": "y" * 10**6}).encode(), "f.json")
    with within(1):
        with pytest.raises(BundleError, match="name must be a string, not a list"):
            obj.text("name")
        with pytest.raises(BundleError, match="text must be an integer, not 'yyy.*'?") as caught:
            obj.integer("text")
    assert len(str(caught.value)) < 100
