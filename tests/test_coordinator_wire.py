"""The wire's records survive the way there, and nothing else is taken for one."""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passel.cluster.wire import workers as wire
from passel.cluster.wire.workers import PollReply, PollRequest, WireError, WireProblem, decode, encode, pack, unpack

KINDS = (PollRequest, PollReply, WireProblem)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


PLAIN = {str: st.text(max_size=12), int: st.integers(0, 2**60), float: st.floats(0, 1e12), bool: st.booleans()}


def values(hint: object) -> st.SearchStrategy[object]:
    """Anything that a field of this type may hold on the wire."""
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return st.builds(hint, **{name: values(inner) for name, inner in get_type_hints(hint).items()})
    if origin is tuple:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is types.UnionType:
        return st.none() | values(arguments[0])
    return PLAIN[hint]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(data=st.data())
def test_records_come_back_as_they_went(kind: type, data: st.DataObject) -> None:
    record = data.draw(values(kind))
    assert decode(kind, encode(record)) == record


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(value=JSON, where=st.integers(0, 10_000))
def test_a_poll_with_anything_else_in_it_is_refused_or_read(value: object, where: int) -> None:
    """One value somewhere in a good poll is replaced."""
    machine = wire.MachineInfo("h", 2, 8000, 4000, 100)
    running = (wire.Running("t", "j", "d", "running", 1, 500, 1),)
    finished = (wire.Finished("u", "j", "e", 1, wire.Failure("died", "x")),)
    good = json.loads(encode(PollRequest("s", 1, 10.0, machine, wire.Slots(2, 4000), running, finished)))
    places = list(_places(good))
    holder, key = places[where % len(places)]
    holder[key] = value
    text = json.dumps(good)
    try:
        record = decode(PollRequest, text.encode("utf-8", "surrogatepass"))
    except WireError:
        return
    assert decode(PollRequest, encode(record)) == record


def _places(value: object) -> object:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


@given(garbage=st.binary(max_size=60))
@settings(max_examples=150, deadline=None, database=None, derandomize=True)
def test_bytes_are_no_record(garbage: bytes) -> None:
    for kind in KINDS:
        with pytest.raises(WireError):
            decode(kind, garbage)


@pytest.mark.parametrize(
    "text",
    ['{"seq": -1}', '{"seq": true}', '{"seq": 1.5}', '{"seq": 1, "interval_s": NaN}', '{"seq": 1, "interval_s": 1e999}',
     '{"seq": 1, "run": {}}', '{"seq": 1, "more": 2}', "[" * 100_000, '{"seq": ' + "9" * 10_000 + "}"],
)  # fmt: skip
def test_odd_json_is_refused(text: str) -> None:
    with pytest.raises(WireError):
        decode(PollReply, text.encode())


def test_blobs() -> None:
    assert unpack(pack(b"\0\xff")) == b"\0\xff"
    with pytest.raises(WireError):
        unpack("not base64!")
