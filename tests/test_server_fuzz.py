"""Garbage from clients: forms, JSON, archives, events, ranges. Short here; `make fuzz` goes on for minutes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import zipfile
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error

from passel.errors import PasselError
from passel.options import parse_options
from passel.server.api_options import OFFERED, choose, words_for_driver
from passel.server.archive import Archive, pack
from passel.server.console import Console
from passel.server.drivers import read_event
from passel.server.folders import LONGEST_NAME_BYTES, inside, safe_name
from passel.server.jobs import JobError
from passel.server.multipart import FormLimits, Sink, read_form
from passel.server.orders import order_from
from passel.server.sending import _span
from passel.server.settings import ServerSettings
from passel.server.unpacking import Bounds, unpack_tree
from server_world import running

EXAMPLES = int(os.environ.get("PASSEL_FUZZ_EXAMPLES", "40"))
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LIMITS = FormLimits(max_field_bytes=2000, max_fields=20, idle_s=30.0)
BOUNDARY = "xyzzy"


def told(error: PasselError) -> None:
    """A refusal has words."""
    assert error.what


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.content, self.finished, self.kept = b"", False, False

    def write(self, chunks: list[bytes]) -> None:
        assert not self.finished
        self.content += b"".join(chunks)

    def finish(self) -> None:
        self.finished = True

    def keep(self) -> None:
        assert self.finished
        assert not self.kept
        self.kept = True


def read(body: bytes, cuts: list[int], content_type: str) -> tuple[dict[str, str], list[tuple[str, str, Kept]]]:
    """The fields and files of a body that arrives in pieces."""
    files: list[tuple[str, str, Kept]] = []

    def open_file(field: str, name: str) -> Sink:
        files.append((field, name, Kept()))
        return files[-1][2]

    async def pieces() -> AsyncIterator[bytes]:
        edges = [0, *sorted(c % (len(body) + 1) for c in cuts), len(body)]
        for start, end in pairwise(edges):
            yield body[start:end]

    fields = asyncio.run(read_form({"content-type": content_type}, pieces(), open_file, LIMITS))
    return fields, files


NAMES = st.text("abc äß-_.", min_size=1, max_size=20)
PARTS = st.lists(st.tuples(NAMES, st.none() | NAMES, st.binary(max_size=300)), max_size=6)


@fuzz
@given(PARTS, st.lists(st.integers(0, 5000), max_size=8))
def test_any_form_in_any_pieces_arrives_as_it_was_sent(parts, cuts):
    body = b""
    for name, file, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file}"' if file is not None else "")
        body += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    body += f"--{BOUNDARY}--\r\n".encode()
    fields, files = read(body, cuts, f"multipart/form-data; boundary={BOUNDARY}")
    assert [(f, n, k.content, k.finished) for f, n, k in files] == [
        (n, f, c, True) for n, f, c in parts if f is not None
    ]
    assert fields == {n: c.decode(errors="replace") for n, f, c in parts if f is None}


@fuzz
@given(
    st.binary(max_size=400) | st.text(max_size=200).map(lambda t: f"--{BOUNDARY}\r\n{t}".encode()),
    st.lists(st.integers(0, 500), max_size=4),
    st.sampled_from(
        [
            *(f"multipart/form-data; boundary={b}" for b in (BOUNDARY, "b" * 300, "")),
            *("multipart/form-data", "application/json", "", "a;b=c;;;=", 'x; boundary="'),
            "application/x-www-form-urlencoded",
        ]
    ),
)
def test_garbage_for_a_form_is_refused_or_read_never_an_accident(body, cuts, content_type):
    try:
        fields, _ = read(body, cuts, content_type)
    except JobError as e:
        told(e)
    else:
        assert all(isinstance(v, str) for v in fields.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
OPTION_ROWS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from(sorted(OFFERED)) | st.text(max_size=9), "value": JSON})
)


@fuzz
@given(JSON.map(json.dumps) | OPTION_ROWS.map(json.dumps) | st.text(max_size=60), st.booleans())
def test_options_are_refused_in_words_or_make_a_command_line_that_the_driver_takes(text, skip):
    try:
        choice = choose(text, skip, 0)
    except JobError as e:
        told(e)
        return
    parse_options(words_for_driver(choice.options))
    json.dumps([o.value for o in choice.options]).encode()


FIELDS = ("name", "options", "webhook", "outputs", "dateCreated", "zipurl", "urls", "priority", "skipPostProcessing")


@fuzz
@given(st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=60) | JSON.map(json.dumps)))
@example({"outputs": '["\\ud800"]'})
@example({"name": "\ud800", "dateCreated": "1e999"})
@example({"webhook": "http://[v1.x]/"})
def test_any_order_is_refused_in_words_or_can_be_written_down(fields):
    try:
        order = order_from(fields, ServerSettings(Path("/nowhere")), 7)
    except PasselError as e:
        told(e)
        return
    assert order.name.encode()
    assert all(".." not in o.split("/") and not o.startswith("/") for o in order.outputs)


@fuzz
@given(st.text(max_size=300))
def test_a_safe_name_is_a_name(name):
    try:
        safe = safe_name(name)
    except JobError:
        return
    assert len(safe.encode()) <= LONGEST_NAME_BYTES + 80
    assert not set(safe) & set("/\\\0\n")
    assert safe[0] != "."


@fuzz
@given(st.text(max_size=50) | st.lists(st.sampled_from(["..", ".", "a", "", "link", "\0"])).map("/".join))
def test_inside_is_inside(tmp_path, relative):
    (tmp_path / "root").mkdir(exist_ok=True)
    link = tmp_path / "root" / "link"
    if not link.is_symlink():
        link.symlink_to("/etc")
    path = inside(tmp_path / "root", relative)
    assert path is None or path.is_relative_to((tmp_path / "root").resolve())


@fuzz
@given(
    st.binary(max_size=200) | JSON.map(lambda j: json.dumps({"event": "stages", "stages": j, "progress": j}).encode())
)
@example(b'{"event": "end", "code": 1e400}')
@example(b'{"event": ["x"]}')
@example(b"[" * 100_000)
def test_whatever_a_driver_says_is_an_event(line):
    read_event(line)


@fuzz
@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.booleans())
def test_a_damaged_archive_is_refused_or_stays_in_its_folder(tmp_path, at, damage, cut):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("a/b.txt", b"hello" * 50)
        z.writestr("c.txt", b"world")
    data = bytearray(packed.getvalue())
    at %= len(data)
    data[at : at + len(damage)] = damage
    (tmp_path / "x.zip").write_bytes(data[:at] if cut else data)
    try:
        unpack_tree(tmp_path / "x.zip", tmp_path / "out", Bounds(10_000, 10, 0))
    except JobError as e:
        told(e)
    assert {p.name for p in tmp_path.iterdir()} <= {"x.zip", "out"}


@fuzz
@given(
    st.dictionaries(st.from_regex(r"[a-c]{1,2}(/[a-c]){0,2}\.(tif|txt)", fullmatch=True), st.binary(max_size=400)),
    st.data(),
)
def test_a_packed_archive_is_one_and_every_range_of_it_is_exact(tmp_path_factory, files, data):
    project = tmp_path_factory.mktemp("project")
    for name, content in files.items():
        path = project / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    pack(project, sorted({n.split("/")[0] for n in files}), project / ".packed")
    archive = Archive(project, project / ".packed")
    whole = b"".join(archive.read(0, archive.size_bytes))
    assert len(whole) == archive.size_bytes
    with zipfile.ZipFile(io.BytesIO(whole)) as z:
        assert z.testzip() is None
        assert {n: z.read(n) for n in z.namelist() if not n.endswith("/")} == files
    start = data.draw(st.integers(0, archive.size_bytes))
    end = data.draw(st.integers(start, archive.size_bytes))
    assert b"".join(archive.read(start, end)) == whole[start:end]


@fuzz
@given(st.text(max_size=30) | st.from_regex(r"bytes=\d{0,5}-\d{0,5}", fullmatch=True), st.integers(0, 2000))
def test_a_range_lies_within(header, size):
    span = _span(header, size)
    assert span is None or 0 <= span[0] <= span[1] <= size


@fuzz
@given(st.lists(st.text(max_size=40), max_size=10), st.integers(-15, 15), st.integers(0, 60))
def test_the_console_is_javascripts_slice_of_what_was_said_also_after_a_kill(tmp_path_factory, said, start, torn):
    file = tmp_path_factory.mktemp("console") / "console.txt"
    console = Console(file)
    for line in said:
        console.say([line])
    every = console.lines(0)
    assert console.lines(start) == (every[start:] if start >= 0 else every[max(0, len(every) + start) :])
    assert "error" not in every
    assert Console(file).lines(0) == every
    if every:
        content = file.read_bytes()
        file.write_bytes(content[: torn % len(content)])
        again = Console(file)
        kept = again.lines(0)
        again.say(["after"])
        assert again.lines(0) == [*kept, "after"]
        assert Console(file).lines(0) == [*kept, "after"]


def test_no_request_is_a_server_error(tmp_path):
    """schemathesis: requests made from the OpenAPI page, valid and not."""
    bounds = settings(fuzz, max_examples=max(4, EXAMPLES // 15), suppress_health_check=list(HealthCheck))
    with running(tmp_path, test={}) as world:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{world.port}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert len(operations) >= 18
        for operation in operations:

            @bounds
            @given(operation.as_strategy())
            def check(case):
                response = case.call(timeout=60)
                case.validate_response(response, checks=[not_a_server_error])

            check()
        log = world.log.read_text()
        assert "Traceback" not in log
        print(f"\nrequests: {log.count('passel.access ')}")  # bench/server_fuzz.py counts them
