"""Bodies of requests as streams: multipart forms in bounded memory, however large the files in them are.

Only the tokenizer is python-multipart's. Files go to a `Sink` as they arrive; fields are kept, within limits.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from passel.server.jobs import JobError

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed body: clients fill no logs
BUFFER_BYTES = 1 << 20
FINISHED_AT_ONCE = 4
"""Files of a form that are flushed to the disk at once: a disk writes several in little more time than one."""
MOST_HEADERS, MOST_HEADER_BYTES = 16, 8192


class SilentClientError(JobError):
    """The body stopped arriving, or nobody wants it any more; the connection is of no use."""


Piece = bytes | memoryview


class Sink(Protocol):
    """Takes a file of a form. Its methods block and are called in a thread, one after another; other files beside it."""

    def write(self, chunks: Sequence[Piece]) -> None:
        """More bytes of the file."""
        ...

    def finish(self) -> None:
        """The file is complete: to the disk with it."""
        ...

    def keep(self) -> None:
        """It is on the disk. Called for one file of a form after the other, in their order."""
        ...


_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*([\w-]*)'[^']*'([^;\s]*)", re.IGNORECASE)
"""How Python clients of before 2019 (urllib3 < 1.25) send names that are not ASCII; the tokenizer leaves it out."""
OpenFile = Callable[[str, str], Sink]
"""Opens the sink of a file: field name, file name as sent. Raises JobError to refuse."""


@dataclass(frozen=True)
class FormLimits:
    """Bounds of a form. idle_s: a body of which nothing arrives for so long is given up."""

    max_field_bytes: int
    max_fields: int
    idle_s: float


def no_files(field_name: str, file_name: str) -> Sink:
    """The OpenFile of routes that take no files."""
    raise JobError("Unexpected field")


async def read_form(
    headers: Mapping[str, str], body: AsyncIterator[bytes], open_file: OpenFile, limits: FormLimits
) -> dict[str, str]:
    """The fields of a multipart, urlencoded or JSON body; files go to their sinks. Bodies that are none of these, also a
    multipart body without boundary (ClusterODM's commit), count as empty. JobError for what is malformed or too large.
    """
    kind, parameters = parse_options_header(headers.get("content-type", ""))
    body = BodyWatch(limits.idle_s).pieces(body)
    if kind == b"multipart/form-data" and parameters.get(b"boundary"):
        return await _Form(parameters[b"boundary"], open_file, limits).read(body)
    if kind not in {b"application/json", b"application/x-www-form-urlencoded"}:
        async for _ in body:
            pass
        return {}
    text = await _text(body, limits.max_field_bytes)
    return _from_json(text) if kind == b"application/json" else _from_urlencoded(text, limits.max_fields)


class BodyWatch:
    """Ends waits for a body that last too long. As `asyncio.timeout`, but one timer serves all waits of a body, and another
    task may end them. For one body.
    """

    def __init__(self, idle_s: float) -> None:
        self._idle_s, self._loop = idle_s, asyncio.get_running_loop()
        self._since_s, self._is_waiting, self._why = 0.0, False, ""
        self._task = asyncio.current_task()
        self.ended = asyncio.Event()

    async def pieces(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body, piece by piece. SilentClientError when nothing of it arrives for so long, or it was given up."""
        self._timer = self._loop.call_later(self._idle_s, self._look)
        try:
            while True:
                with self:
                    piece = await anext(body, None)
                if piece is None:
                    return
                yield piece
        finally:
            self._timer.cancel()

    def give_up(self, why: str) -> None:
        """Wait no more."""
        self._why = why
        if self._is_waiting and self._task is not None:
            self._task.cancel()

    def __enter__(self) -> None:
        if self._why:
            raise SilentClientError(self._why)
        self._since_s, self._is_waiting = self._loop.time(), True

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._is_waiting = False
        if self._why and isinstance(error, asyncio.CancelledError):
            if self._task is not None and self._task.uncancel() > 0:
                return  # somebody else wants it to end, too
            raise SilentClientError(self._why) from None

    def _look(self) -> None:
        late_s = self._since_s + self._idle_s if self._is_waiting else self._loop.time() + self._idle_s
        if self._loop.time() >= late_s:
            self.give_up(f"Nothing arrived for {self._idle_s:g} s; the upload was given up")
        else:
            self._timer = self._loop.call_at(late_s, self._look)


async def _text(body: AsyncIterator[bytes], limit: int) -> str:
    data = bytearray()
    async for chunk in body:
        data += chunk
        if len(data) > limit:
            raise JobError("Field value too long")
    return data.decode(errors="replace")


def _from_json(text: str) -> dict[str, str]:
    """Fields of a JSON object; values that are no text stay JSON, as if a form had brought them."""
    try:
        fields = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as e:
        raise JobError(f"Invalid JSON: {e}") from None
    if not isinstance(fields, dict):
        raise JobError("Invalid JSON: an object is wanted")
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in fields.items() if v is not None}


def _from_urlencoded(text: str, max_fields: int) -> dict[str, str]:
    try:
        return dict(urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=max_fields))
    except ValueError:
        raise JobError(f"Too many fields; at most {max_fields} are allowed") from None


@dataclass
class _Part:
    """A part that is being read. sink: None for a field."""

    name: str = ""
    sink: Sink | None = None
    chunks: list[Piece] = field(default_factory=list)
    held_bytes: int = 0


def _file_name(plain: bytes | None, disposition: bytes) -> str:
    """What the client calls the file. The extended form counts only without the plain one, as RFC 7578 wants it."""
    extended = _EXTENDED_NAME.search(disposition)
    if plain is not None or extended is None:
        return (plain or b"").decode(errors="replace")
    charset = "latin-1" if extended[1].lower() == b"iso-8859-1" else "utf-8"
    return urllib.parse.unquote_to_bytes(extended[2]).decode(charset, errors="replace")


class _NoFile:
    """A file field that was left empty: web forms send it without a name. NodeODM does not see it either."""

    def write(self, _: Sequence[Piece]) -> None:
        """There is nothing in it."""
        raise JobError("File name '' cannot be used")

    def finish(self) -> None:
        """It is complete."""

    def keep(self) -> None:
        """There is nothing to keep."""


class _Form:
    """One multipart body. The tokenizer calls back while it reads a chunk; what it found is worked off after each."""

    def __init__(self, boundary: bytes, open_file: OpenFile, limits: FormLimits) -> None:
        self._open_file, self._limits = open_file, limits
        self._fields: dict[str, str] = {}
        self._todo: list[Callable[[], Awaitable[None]]] = []
        self._part = _Part()
        self._done = False
        self._writing: asyncio.Future[None] | None = None
        self._finishing: list[tuple[asyncio.Future[None], Sink]] = []
        self._header_name, self._header_value = b"", b""
        self._headers: dict[bytes, bytes] = {}
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_data,
                    "on_part_end": lambda: self._todo.append(self._close),
                    "on_end": self._on_end,
                },
                max_header_count=MOST_HEADERS,
                max_header_size=MOST_HEADER_BYTES,
            )
        except FormParserError as e:
            raise JobError(f"Malformed form: {e}") from None

    async def read(self, body: AsyncIterator[bytes]) -> dict[str, str]:
        empty = True
        try:
            async for chunk in body:
                if chunk:
                    empty = False
                    await self._take_chunk(chunk)
            await self._finished(0)
        finally:
            open_ones = [
                *(flushed for flushed, _ in self._finishing),
                *([self._writing] if self._writing is not None else []),
            ]
            await asyncio.gather(*open_ones, return_exceptions=True)  # files must not be closed under their threads
        if not empty and not self._done:
            raise JobError("Malformed form: it ends in the middle")
        return self._fields

    async def _take_chunk(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as e:
            raise JobError(f"Malformed form: {e}") from None
        todo, self._todo = self._todo, []
        for work in todo:
            await work()

    def _begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def _on_headers_finished(self) -> None:
        self._todo.append(partial(self._open, self._headers))

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        piece = memoryview(data)[start:end]

        async def take() -> None:
            part = self._part
            part.chunks.append(piece)
            part.held_bytes += len(piece)
            if part.sink is not None and part.held_bytes >= BUFFER_BYTES:
                chunks, part.chunks, part.held_bytes = part.chunks, [], 0
                await self._written()
                # Written while the next bytes arrive. One buffer at a time, so memory stays bounded.
                self._writing = asyncio.ensure_future(asyncio.to_thread(part.sink.write, chunks))
            elif part.sink is None and part.held_bytes > self._limits.max_field_bytes:
                raise JobError("Field value too long")

        self._todo.append(take)

    async def _written(self) -> None:
        """Wait for the bytes that are being written, and for their errors."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
            self._writing = None

    def _on_end(self) -> None:
        self._done = True

    async def _open(self, headers: dict[bytes, bytes]) -> None:
        disposition = headers.get(b"content-disposition", b"")
        _, parameters = parse_options_header(disposition)
        part = self._part = _Part(parameters.get(b"name", b"").decode(errors="replace"))
        if b"filename" in parameters or _EXTENDED_NAME.search(disposition):
            name = _file_name(parameters.get(b"filename"), disposition)
            part.sink = await asyncio.to_thread(self._open_file, part.name, name) if name else _NoFile()
        elif len(self._fields) >= self._limits.max_fields:
            raise JobError(f"Too many fields; at most {self._limits.max_fields} are allowed")

    async def _close(self) -> None:
        part = self._part
        if part.sink is None:
            self._fields[part.name] = b"".join(part.chunks).decode(errors="replace")
            return
        sink, chunks = part.sink, part.chunks

        def finish() -> None:
            if chunks:
                sink.write(chunks)
            sink.finish()

        await self._written()
        # Flushed to the disk while the next file of the form arrives.
        self._finishing.append((asyncio.ensure_future(asyncio.to_thread(finish)), sink))
        await self._finished(FINISHED_AT_ONCE - 1)

    async def _finished(self, most_open: int) -> None:
        """Wait until no more files than these are being finished, and for the errors of the others."""
        while len(self._finishing) > most_open:
            flushed, sink = self._finishing[0]
            await asyncio.shield(flushed)
            self._finishing.pop(0)
            # In the order of the form: of two files with the same name the first one keeps it.
            await asyncio.to_thread(sink.keep)
