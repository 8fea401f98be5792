"""A NodeODM node as its client sees it. Nothing a node says is trusted: answers are bounded in size and time and checked,
and what is wrong comes out as one of four errors, which say what to do next.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import ssl
import time
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from passel.errors import PasselError, network_reason
from passel.gateway.circle import MOST_TOLD
from passel.gateway.node import Node, Seen
from passel.gateway.words import number_or, plain, sound
from passel.server.wire import PASSELS_HEADER

MOST_ANSWER_BYTES = 16 << 20
MOST_INFO_BYTES = 64 << 10
LONGEST_ANSWER_S = 30.0
LONGEST_INFO_S = 10.0
CONNECT_S = 10.0
SLOWEST_BYTES_S = 30_000.0
"""A photo that goes slower than this is sent again."""
CHUNK_BYTES = 1 << 18
USUAL_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "passel"}
LONGEST_PAUSE_S = 60.0
"""A node that asks for a longer pause is asked again all the same."""
_FULL = re.compile(r"ENOSPC|no space left|disk( is|'s)?( too)? full|disk quota", re.IGNORECASE)
_UNKNOWN = ("not found", "Invalid route for taskId", "the task no longer exists")
"""How NodeODM says that it has no such task; the others are ClusterODM's, which may be a node, too."""
LONGEST_LINE = 4000
MOST_LINES = 100_000
MOST_PARALLEL = 64
"""Tasks that a node is given at once, whatever it says: ClusterODM says 99999999999, and each takes a forwarder here."""
COMPLETED, FAILED, CANCELED = 40, 30, 50


class NodeError(PasselError):
    """A node did not do what it was asked for."""


class NodeSilent(NodeError):  # noqa: N818
    """It does not answer; it may be back soon."""


class NodeBusy(NodeSilent):
    """It asks us to come back later: after `wait_s`, when it says so."""

    def __init__(self, what: str, where: str, wait_s: float) -> None:
        super().__init__(what, where)
        self.wait_s = wait_s


class NodeUntrusted(NodeSilent):
    """Its TLS certificate is not the one that it should have."""


class NodeLies(NodeError):  # noqa: N818
    """It answers with something that is no NodeODM API."""


class NodeRefuses(NodeError):  # noqa: N818
    """It says no, in its own words."""


class NodeUnfit(NodeRefuses):
    """It takes nothing at present, from nobody or not from us: its disk is full, our token is wrong. No fault of the task."""


class TaskUnknown(NodeRefuses):
    """It has no such task."""


@dataclass(frozen=True)
class RemoteTask:
    """A task as its node tells it. lines: of output, from the line that was asked for."""

    code: int
    error: str
    progress: float
    processing_ms: int
    images: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Commission:
    """What a node is told about a task. options: JSON as in NodeODM's API. outputs: '' or JSON."""

    name: str
    options: str
    skip_post_processing: bool
    outputs: str


class Pace:
    """Lets through so many bytes a second, 0 = all."""

    def __init__(self, bytes_a_s: float) -> None:
        self.bytes_a_s = bytes_a_s
        self._free_at_s = 0.0

    async def take(self, size: int) -> None:
        """Wait until so many bytes may go."""
        if self.bytes_a_s <= 0:
            return
        now_s = time.monotonic()
        self._free_at_s = max(now_s, self._free_at_s) + size / self.bytes_a_s
        await asyncio.sleep(self._free_at_s - now_s)


@dataclass(frozen=True)
class _Answer:
    """said: its JSON."""

    said: object
    headers: Mapping[str, str]


class NodeClient:
    """Speaks with one node over a session that `opened` made."""

    def __init__(self, node: Node, session: aiohttp.ClientSession) -> None:
        self.node, self.session = node, session

    async def info(self) -> Seen:
        """What it says of itself."""
        answer = await self._heard("GET", "/info", most_bytes=MOST_INFO_BYTES, longest_s=LONGEST_INFO_S)
        said, told = _fields(answer.said, "/info"), answer.headers.get(PASSELS_HEADER, "")
        most = said.get("maxImages")
        return Seen(
            at_s=time.time(),
            engine=_text(said.get("engine", "odm"), "engine"),
            engine_version=_text(said.get("engineVersion", "?"), "engineVersion"),
            api_version=_text(said.get("version"), "version"),
            queue=_whole(said.get("taskQueueCount"), "taskQueueCount"),
            max_parallel=min(MOST_PARALLEL, max(1, _whole(said.get("maxParallelTasks", 1), "maxParallelTasks"))),
            max_images=(_whole(most, "maxImages") or None) if most is not None else None,
            memory_bytes=_whole(said.get("totalMemory", 0), "totalMemory"),
            cpus=_whole(said.get("cpuCores", 0), "cpuCores"),
            passels=tuple(re.findall(r"[0-9a-f]{16}", told))[:MOST_TOLD],
        )

    async def task(self, uuid: str, from_line: int | None = None) -> RemoteTask:
        """The state of a task, with its output from a line on. TaskUnknown."""
        query = {} if from_line is None else {"with_output": str(from_line)}
        said = _fields(await self._ask("GET", f"/task/{uuid}/info", query), "task/info")
        status = _fields(said.get("status"), "status")
        output = said.get("output") or []
        if not isinstance(output, list) or len(output) > MOST_LINES:
            raise NodeLies("It sent output that is none", self.node.name)
        if said.get("uuid", uuid) != uuid:
            raise NodeLies("It tells of another task than it was asked for", self.node.name)
        return RemoteTask(
            code=_whole(status.get("code"), "status.code"),
            error=plain(status.get("errorMessage") or "", 1000),
            progress=number_or(0.0, said.get("progress")),
            processing_ms=max(-1, int(number_or(-1.0, said.get("processingTime")))),
            images=_whole(said.get("imagesCount", 0), "imagesCount"),
            lines=tuple(sound(line, LONGEST_LINE) for line in output),
        )

    async def init(self, uuid: str, what: Commission) -> None:
        """Begin a task of this uuid. NodeRefuses: bad options, no room, or a uuid that it knows already."""
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("name", what.name)
        form.add_field("options", what.options)
        if what.skip_post_processing:
            form.add_field("skipPostProcessing", "true")
        if what.outputs:
            form.add_field("outputs", what.outputs)
        said = _fields(await self._ask("POST", "/task/new/init", data=form, headers={"set-uuid": uuid}), "init")
        if said.get("uuid") != uuid:
            raise NodeLies("It gave the task another uuid", self.node.name)

    async def upload(self, uuid: str, path: Path, pace: Pace) -> None:
        """Send one file, streamed from the disk."""
        size, boundary = path.stat().st_size, f"passel-{secrets.token_hex(16)}"  # no photo can hold it on purpose
        name = path.name.replace('"', "%22").replace("\r", "").replace("\n", "")
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        tail = f"\r\n--{boundary}--\r\n".encode()

        async def body() -> AsyncIterator[bytes]:
            yield head
            left = size
            with path.open("rb") as file:
                while left and (chunk := await asyncio.to_thread(file.read, min(CHUNK_BYTES, left))):
                    await pace.take(len(chunk))
                    left -= len(chunk)
                    yield chunk
            yield tail

        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        headers["Content-Length"] = str(len(head) + size + len(tail))
        slowest = min(SLOWEST_BYTES_S, pace.bytes_a_s / 16 or SLOWEST_BYTES_S)
        longest_s = 2 * LONGEST_ANSWER_S + size / slowest
        address = f"/task/new/upload/{uuid}"
        said = _fields(
            await self._ask("POST", address, data=body(), headers=headers, longest_s=longest_s), "task/new/upload"
        )
        if said.get("success") is not True:
            raise NodeLies("It did not say that the photo arrived", self.node.name)

    async def commit(self, uuid: str) -> None:
        """All files are there: go."""
        said = _fields(await self._ask("POST", f"/task/new/commit/{uuid}", longest_s=4 * LONGEST_ANSWER_S), "commit")
        if said.get("uuid") != uuid:
            raise NodeLies("It did not say that the task was taken", self.node.name)

    async def act(self, action: str, uuid: str) -> None:
        """cancel or remove. TaskUnknown."""
        said = _fields(await self._ask("POST", f"/task/{action}", data={"uuid": uuid}), action)
        if said.get("success") is not True:
            raise NodeLies(f"It did not say that it did `{action}`", self.node.name)

    async def check_download(self, response: aiohttp.ClientResponse) -> None:
        """NodeError unless this is the beginning of an archive, or of the rest of one."""
        if response.status not in {200, 206}:
            raise NodeSilent(f"It answers the download with status {response.status}", self.node.name)
        if "json" in response.content_type:
            body = await _bounded(response, MOST_INFO_BYTES, self.node)
            _fields(_parsed(body, self.node, "download"), "download")
            raise NodeLies("It sent JSON for a ZIP file", self.node.name)

    async def _ask(self, method: str, path: str, query: Mapping[str, str] | None = None, **more: Any) -> object:
        """The JSON of an answer."""
        return (await self._heard(method, path, query, **more)).said

    async def _heard(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        data: object = None,
        headers: Mapping[str, str] | None = None,
        most_bytes: int = MOST_ANSWER_BYTES,
        longest_s: float = LONGEST_ANSWER_S,
    ) -> _Answer:
        address, begun = self.node.url + path, False
        try:
            with self.troubles(path):
                async with (
                    asyncio.timeout(longest_s),
                    self.session.request(
                        method,
                        address,
                        params={**(query or {}), **self.query()},
                        data=data,
                        headers=headers,
                        allow_redirects=False,
                    ) as response,
                ):
                    begun = response.status == 200
                    body = await _bounded(response, most_bytes, self.node)
        except NodeSilent as e:
            if begun and isinstance(e.__cause__, TimeoutError):
                raise NodeLies(f"Its answer to {path} never ends", self.node.name) from None
            raise
        if response.status in {401, 403}:
            raise NodeUnfit("It refuses our token", self.node.name, "give the right one: passel node add URL --token T")
        if response.status in {429, 503}:
            wait_s = _seconds(response.headers.get("Retry-After", ""))
            raise NodeBusy(f"It asks for a pause, with status {response.status}", self.node.name, wait_s)
        if 300 <= response.status < 400:
            elsewhere = plain(response.headers.get("Location", "nowhere"), 100)
            raise NodeSilent(f"It sends us on to {elsewhere}", self.node.name, "add the node with its own address")
        if response.status != 200:
            raise NodeSilent(f"It answers {path} with status {response.status}", self.node.name)
        return _Answer(_parsed(body, self.node, path), response.headers)

    def troubles(self, where: str) -> _Troubles:
        """Around what speaks with the node: what the network raises comes out as NodeError."""
        return _Troubles(self.node, where)

    def query(self) -> dict[str, str]:
        """What each request to the node has in its address."""
        return {"token": self.node.token} if self.node.token else {}


class _Troubles:
    """What the network raises, as NodeError."""

    def __init__(self, node: Node, where: str) -> None:
        self._node, self._where = node, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, aiohttp.ServerFingerprintMismatch):
            raise NodeUntrusted("Its TLS certificate is not the one that was pinned", self._node.name) from error
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            why = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
            raise NodeUntrusted(f"Its TLS certificate is not trusted: {why}", self._node.name) from error
        if isinstance(error, aiohttp.ClientSSLError):
            raise NodeSilent("It does not speak TLS on this port", self._node.name) from error
        if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ClientConnectionError | TimeoutError | OSError):
            raise NodeSilent(f"It cannot be reached: {network_reason(error)}", self._node.name) from error
        if isinstance(error, aiohttp.ClientError | ValueError):
            raise NodeLies(f"It does not speak HTTP: {plain(error, 200)}", self._node.name) from error


@asynccontextmanager
async def opened(node: Node) -> AsyncIterator[NodeClient]:
    """A client for a node. NodeError when its certificate authority cannot be read."""
    trust: ssl.SSLContext | aiohttp.Fingerprint | bool = True
    if node.pin:
        trust = aiohttp.Fingerprint(bytes.fromhex(node.pin))
    elif node.ca_file:
        try:
            trust = ssl.create_default_context(cafile=node.ca_file)
        except (OSError, ssl.SSLError) as e:
            raise NodeError(f"Its certificate authority cannot be read: {e}", node.ca_file) from None
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
    connector = aiohttp.TCPConnector(ssl=trust, limit=16)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers=USUAL_HEADERS,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield NodeClient(node, session)


def fingerprint_of(node: Node) -> str:
    """SHA-256 of the certificate that the node shows, in hex; '' when it shows none. Blocks."""
    address = urllib.parse.urlsplit(node.url)
    try:
        pem = ssl.get_server_certificate((address.hostname or "", address.port or 443), timeout=CONNECT_S)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
    except (OSError, ValueError):
        return ""


def is_full(words: str) -> bool:
    """Whether a node's words say that its disk is full."""
    return _FULL.search(words) is not None


def _seconds(text: str) -> float:
    """Retry-After in seconds; a date is not read."""
    return min(LONGEST_PAUSE_S, float(text)) if text.isdecimal() else 0.0


async def _bounded(response: aiohttp.ClientResponse, most_bytes: int, node: Node) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise NodeLies(f"Its answer is larger than {most_bytes >> 10} kB", node.name)
    return bytes(body)


def _parsed(body: bytes, node: Node, path: str) -> object:
    try:
        said: object = json.loads(body)
    except (ValueError, RecursionError):
        begin = body[:40].decode(errors="replace")
        raise NodeLies(f"Its answer to {path} is no JSON but {begin!r}", node.name) from None
    if isinstance(said, dict) and said.get("error"):
        words = plain(said["error"], 1000)
        unfit = is_full(words) or words.startswith("Invalid authentication token")
        kind = TaskUnknown if any(w in words for w in _UNKNOWN) else NodeUnfit if unfit else NodeRefuses
        raise kind(f"It says: {words}", node.name)
    return said


def _fields(said: object, where: str) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise NodeLies(f"{where} is no record")
    return said


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise NodeLies(f"{where} is no text")
    return plain(value, 100)


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        raise NodeLies(f"{where} is no number: {value!r:.50}")
    return int(value)
