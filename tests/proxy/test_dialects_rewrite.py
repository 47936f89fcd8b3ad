"""Members of a body are changed in its bytes, and nothing around them is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.rewrite import read_object, set_model

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.just("model"), inner, max_size=3),
    max_leaves=6,
)
SPACES = st.text(" \t\r\n", max_size=3)


@st.composite
def written(draw: st.DrawFn) -> tuple[bytes, list[tuple[str, Any]], bytes]:
    """An object's text as some client may write it, its members in order, duplicates included, and what is in front."""
    keys = st.text(max_size=5) | st.sampled_from(["model", "mödel", "stream", 'a"b', "\\"])
    members = draw(st.lists(st.tuples(keys, VALUES), max_size=5))
    ascii_only, s = draw(st.booleans()), lambda: draw(SPACES)
    parts = []
    for key, value in members:
        name = json.dumps(key, ensure_ascii=ascii_only)
        if key == "model" and draw(st.booleans()):
            name = '"\\u006dodel"'
        text = json.dumps(value, ensure_ascii=ascii_only, separators=(s() + "," + s(), s() + ":" + s()))
        parts.append(f"{s()}{name}{s()}:{s()}{text}{s()}")
    bom = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    inside = ",".join(parts) or s()
    return bom + f"{s()}{{{inside}}}{s()}".encode("utf-8", "surrogatepass"), members, bom


@given(written(), st.text(max_size=8))
def test_the_model_is_changed_and_nothing_else(body: tuple[bytes, list[tuple[str, Any]], bytes], name: str) -> None:
    text, members, bom = body
    changed = set_model(text, name)
    expected = [(key, name if key == "model" else value) for key, value in members]
    if not any(key == "model" for key, _ in members):
        expected.append(("model", name))
    assert changed.startswith(bom)
    assert pairs(changed[len(bom) :]) == expected


def pairs(text: bytes) -> list[tuple[str, Any]]:
    """The outermost members as they are written, and what is in them as Python reads it."""
    top: list[tuple[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        top[:] = pairs  # the outermost object is read last
        return dict(pairs)

    json.loads(text, object_pairs_hook=keep)
    return top


@given(written(), st.text(max_size=8))
def test_bytes_outside_the_edit_stay(body: tuple[bytes, list[tuple[str, Any]], bytes], name: str) -> None:
    """What is left when every value of `model` is cut out of both is the same text."""
    text, members, bom = body
    before, after = read_object(text), read_object(set_model(text, name))
    assert before is not None
    assert after is not None
    added = not any(key == "model" for key, _ in members)
    cut = [_without(found.text, [(m.start, m.end) for m in found.members if m.key == "model"]) for found in (before, after)]
    assert cut[1] == (
        cut[0][: before.free] + (',"model":' if members else '"model":') + cut[0][before.free :] if added else cut[0]
    )
    assert after.prefix == bom


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    for start, end in reversed(spans):
        text = text[:start] + text[end:]
    return text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b'{ "model" : null , "n":1e400}', b'{ "model" : "b" , "n":1e400}'),
        (b"{}", b'{"model":"b"}'),
        (b" {\n} ", b' {"model":"b"\n} '),
        (b'{"a":{"model":"x"},"b":["model","a"]}', b'{"a":{"model":"x"},"b":["model","a"],"model":"b"}'),
        (b'{"model":{"model":"x"},"\\u006dodel":[1,{}]}', b'{"model":"b","\\u006dodel":"b"}'),
        ('{"ü":"💡","model":"ü\\"\\\\","x":"\\u00fc"}'.encode(), '{"ü":"💡","model":"b","x":"\\u00fc"}'.encode()),
        (b'\xef\xbb\xbf{"model":1}\n', b'\xef\xbb\xbf{"model":"b"}\n'),
        (
            b'{"seed":18446744073709551615,"x":0.10000000000000001,"model":""}',
            b'{"seed":18446744073709551615,"x":0.10000000000000001,"model":"b"}',
        ),
        (b'{"n":' + b"7" * 5000 + b',"model":"a"}', b'{"n":' + b"7" * 5000 + b',"model":"b"}'),
        (b'{"s":"\\ud800","model":"a"}', b'{"s":"\\ud800","model":"b"}'),
    ],
)
def test_what_comes_out(before: bytes, after: bytes) -> None:
    assert set_model(before, "b") == after


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b'"model"',
        b"5",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":1,',
        b'{"a":1,}',
        b'{,"a":1}',
        b'{"a":1}}',
        b'{"a":1} x',
        b"{a:1}",
        b"{5:1}",
        b'{"a" 1}',
        b'{"a":1 "b":2}',
        b'{"a":tru}',
        b'{"a":"\xff"}',
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32"),
        b'{"a":' + b"[" * 100_000 + b"}",
        b'{"a":"line\nbreak"}',
    ],
)
def test_what_is_no_object_stays_as_it_is(body: bytes) -> None:
    assert read_object(body) is None
    assert set_model(body, "b") == body


@given(st.binary(max_size=40))
def test_any_bytes_at_all(body: bytes) -> None:
    changed = set_model(body, "b")
    assert changed == body or json.loads(changed)["model"] == "b"
