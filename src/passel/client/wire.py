"""NodeODM's API from the client's side, with what only a Passel offers used where it is there.

Every call may be repeated. A server that is away is waited for; what it refuses is told at once.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import httpx

from passel.errors import PasselError, UsageError, network_reason

T = TypeVar("T")

QUEUED, RUNNING, FAILED, COMPLETED, CANCELED = 10, 20, 30, 40, 50
STATES = {QUEUED: "waiting", RUNNING: "running", FAILED: "failed", COMPLETED: "done", CANCELED: "canceled"}
BLOCK_BYTES = 1 << 20
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_LOOK_TIMEOUT = httpx.Timeout(3.0)


class RemoteError(PasselError):
    """The server refuses, or answers what no server of this kind answers."""


class AwayError(RemoteError):
    """The server cannot be reached, or broke off: later it may be there again."""


@dataclass(frozen=True)
class Address:
    """Where a server is. url: without token and query. token: '' = none."""

    url: str
    token: str = ""

    @staticmethod
    def parse(text: str, token: str = "") -> Address:
        """`host:3000`, `http://host:3000/?token=T` and the like. Raises UsageError."""
        whole = text if "://" in text else f"http://{text}"
        try:
            parts = urlsplit(whole)
            port = parts.port
        except ValueError as e:
            raise UsageError(f"this is no address of a server: {e}", text) from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("this is no address of a server", text, "it looks like http://host:3000")
        given = parse_qs(parts.query).get("token", [""])[-1]
        port_text = f":{port}" if port else ("" if "://" in text else ":3000")
        host = _in_url(parts.hostname)
        return Address(urlunsplit((parts.scheme, host + port_text, parts.path.rstrip("/"), "", "")), token or given)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@dataclass(frozen=True)
class Info:
    """What a server says of itself. is_passel: it takes uploads in pieces and answers for single products."""

    engine: str
    version: str
    max_images: int | None

    @property
    def is_passel(self) -> bool:
        return self.engine == "passel"


@dataclass(frozen=True)
class TaskState:
    """A task. code: QUEUED … CANCELED. error: why it failed. lines: its output from the line that was asked for."""

    uuid: str
    name: str
    code: int
    progress: float
    images: int
    created_ms: int
    processing_ms: int
    error: str = ""
    lines: tuple[str, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.code in (FAILED, COMPLETED, CANCELED)


class Server:
    """A server to talk to; a context manager. Safe for several threads."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._http = httpx.Client(timeout=_TIMEOUT, follow_redirects=True, trust_env=False, verify=_authorities())
        self._has_answered = False
        self._led_to_workers: dict[str, bool] = {}  # by the kind of trouble

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Lets go of connections."""
        self._http.close()

    def info(self) -> Info:
        """Who it is. Raises RemoteError when it is no server of this kind."""
        found = self._mapping("GET", "/info")
        try:
            most = int(found.get("maxImages") or 0)
        except (TypeError, ValueError, OverflowError):
            raise self._odd("/info") from None
        return Info(str(found.get("engine", "")), str(found.get("version", "")), most or None)

    def begin(self, uuid: str, name: str, options: Sequence[Mapping[str, object]]) -> str:
        """A task that waits for photos; the same uuid again goes on with it where the server allows. Returns its uuid."""
        fields = {"name": name, "options": json.dumps(list(options)), "skipPostProcessing": "true"}
        parts = {key: (None, value) for key, value in fields.items()}
        return str(self._mapping("POST", "/task/new/init", files=parts, headers={"set-uuid": uuid}).get("uuid", ""))

    def offset(self, uuid: str, name: str) -> tuple[int, bool]:
        """How many bytes of a file are there, and whether that is all of it. Only of a Passel."""
        found = self._mapping("GET", f"/task/new/upload/{uuid}/{quote(name)}")
        try:
            return int(found.get("offset", 0)), bool(found.get("complete", False))
        except (TypeError, ValueError, OverflowError):
            raise self._odd("/task/new/upload") from None

    def send_piece(self, uuid: str, path: Path, start: int, told: Callable[[int], None]) -> None:
        """The file from byte `start` on, to a Passel. told: called with the bytes of each block sent."""
        size = path.stat().st_size
        headers = {"Content-Length": str(size - start)}
        if size:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._mapping(
            "PUT", f"/task/new/upload/{uuid}/{quote(path.name)}", content=_blocks(path, start, told), headers=headers
        )

    def send_whole(self, uuid: str, path: Path) -> None:
        """A file as a form, as every NodeODM takes it."""
        with path.open("rb") as file:
            self._mapping("POST", f"/task/new/upload/{uuid}", files={"images": (path.name, file)})

    def commit(self, uuid: str) -> None:
        """All files are there."""
        self._mapping("POST", f"/task/new/commit/{uuid}")

    def task(self, uuid: str, from_line: int | None = None) -> TaskState:
        """How the task is; with its output from a line on."""
        query = {} if from_line is None else {"with_output": str(from_line)}
        return _task(self._mapping("GET", f"/task/{uuid}/info", params=query))

    def tasks(self) -> list[str]:
        """The uuids of this token's tasks, oldest first."""
        found = self._ask("GET", "/task/list")
        if not isinstance(found, list):
            raise self._odd("/task/list")
        return [str(row["uuid"]) for row in found if isinstance(row, dict) and "uuid" in row]

    def act(self, action: str, uuid: str) -> None:
        """'cancel', 'remove' or 'restart'."""
        found = self._mapping("POST", f"/task/{action}", data={"uuid": uuid})
        if not found.get("success"):
            raise RemoteError(f"the server does not {action} the task", self.address.url)

    def fetch(self, uuid: str, path: Path, told: Callable[[int, int], None]) -> None:
        """all.zip into a file, going on with what is there of it already. told: bytes so far, bytes in all (0 = unknown)."""
        start = path.stat().st_size if path.exists() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._answer("GET", f"/task/{uuid}/download/all.zip", headers=headers) as answer:
            if answer.status_code == 416:
                return  # all of it was there
            if "json" in answer.headers.get("content-type", ""):
                self._read(answer.read(), answer.status_code)
            if answer.status_code not in (200, 206):
                raise AwayError(f"the server answered {answer.status_code} to the download", self.address.url)
            resumed = answer.status_code == 206
            whole = int(answer.headers.get("content-length", 0)) + (start if resumed else 0)
            with path.open("ab" if resumed else "wb") as file:
                done = start if resumed else 0
                for block in answer.iter_bytes(BLOCK_BYTES):
                    file.write(block)
                    done += len(block)
                    told(done, whole)

    def _mapping(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        found = self._ask(method, path, **more)
        if not isinstance(found, dict):
            raise self._odd(path)
        return found

    def _ask(self, method: str, path: str, **more: Any) -> object:
        with self._answer(method, path, **more) as answer:
            return self._read(answer.read(), answer.status_code)

    def _read(self, body: bytes, status: int) -> object:
        """The JSON of an answer. A server that starts or stops may say 502 or 503 for a while."""
        if status == 401:
            raise RemoteError("the server wants another token", self.address.url, self._token_todo())
        if status == 409 or status >= 500:  # 409: a piece that is not the next one; the server says again which is
            raise AwayError(f"the server answered {status}", self.address.url)
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            raise self._stranger() from None
        if isinstance(found, dict) and found.get("error"):
            raise self._refusal(str(found["error"]))
        return found

    def _refusal(self, words: str) -> RemoteError:
        return RemoteError(
            f"the server refuses: {words}", self.address.url, self._token_todo() if "token" in words else ""
        )

    def _token_todo(self) -> str:
        todo = "a Passel's operator makes one: passel token create --api"
        if not self.address.token:
            return f"set PASSEL_TOKEN, or end the address in /?token=TOKEN; {todo}"
        return (
            f"that is a join token, for computers that join; {todo}" if self.address.token.startswith("join_") else todo
        )

    def _answer(self, method: str, path: str, **more: Any) -> _Answer:
        params = dict(more.pop("params", {}))
        if self.address.token:
            params["token"] = self.address.token
        request = self._http.build_request(method, self.address.url + path, params=params, **more)
        return _Answer(self._http, request, self._answered, self._away)

    def _answered(self) -> None:
        self._has_answered = True

    def _away(self, error: Exception) -> RemoteError:
        """Trouble on the line, in words."""
        if isinstance(error, httpx.TooManyRedirects | httpx.DecodingError):
            return self._stranger()
        where, reason = self.address.url, network_reason(error)
        if self._leads_to_workers(reason):
            todo = (
                f"clients use the other one, for example --server http://{_in_url(urlsplit(where).hostname or '')}:3000"
            )
            return RemoteError("this is the port for workers", where, todo)
        what = f"the server cannot be reached: {reason}"
        if "certificate" in what:
            todo = "is it the right address? If so, let $SSL_CERT_FILE name the certificate of its authority"
            return RemoteError(what, where, todo)
        if "TLS" in what:
            return RemoteError(what, where, f"try http://{urlsplit(where).netloc}")
        return AwayError(what, where, "is `passel serve` running there?")

    def _leads_to_workers(self, reason: str) -> bool:
        """Looked at once for each kind of trouble; who has answered as a server does not become something else."""
        if not self._has_answered and reason not in self._led_to_workers:
            self._led_to_workers[reason] = _is_workers_port(self.address.url)
        return not self._has_answered and self._led_to_workers[reason]

    def _stranger(self) -> RemoteError:
        return RemoteError("this is no Passel or NodeODM server", self.address.url, "check the address and port")

    def _odd(self, path: str) -> RemoteError:
        return RemoteError(f"the server's answer to {path} is not what NodeODM's API says", self.address.url)


def _authorities() -> ssl.SSLContext:
    """Who is believed: the public authorities, those of this system, and $SSL_CERT_FILE of a passel with its own."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


class _Answer:
    """A context manager: an answer whose body is still to be read. Trouble on the line is raised as what `away` makes of it."""

    def __init__(
        self,
        http: httpx.Client,
        request: httpx.Request,
        answered: Callable[[], None],
        away: Callable[[Exception], RemoteError],
    ) -> None:
        self._http, self._request, self._answered, self._away = http, request, answered, away

    def __enter__(self) -> httpx.Response:
        try:
            self._response = self._http.send(self._request, stream=True)
        except (httpx.RequestError, httpx.InvalidURL) as e:
            raise self._away(e) from None
        self._answered()
        return self._response

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._response.close()
        if isinstance(error, httpx.RequestError | httpx.StreamError):
            raise self._away(error) from None


def _is_workers_port(url: str) -> bool:
    """Whether a Passel's workers' port is at this address: there, anybody may see whose it is."""
    parts = urlsplit(url)
    try:
        with (
            httpx.Client(verify=False, trust_env=False, timeout=_LOOK_TIMEOUT) as http,
            http.stream("GET", f"https://{parts.netloc}/ca.pem") as seen,
        ):
            begins = next(seen.iter_bytes(1000), b"")  # whoever it is may go on for ever
            return seen.status_code == 200 and b"BEGIN CERTIFICATE" in begins
    except (httpx.RequestError, httpx.InvalidURL):
        return False


def patiently(work: Callable[[], T], say: Callable[[str], None], most_s: float, sleep: Callable[[float], None]) -> T:
    """Does `work` again while the server is away, at most for `most_s` on end; says so once."""
    away_since_s: float | None = None
    attempt = 0
    while True:
        try:
            done = work()
        except AwayError as e:
            now_s = time.monotonic()
            if away_since_s is None:
                away_since_s = now_s
                say(f"{e.what} [{e.where}]; trying again" if e.where else f"{e.what}; trying again")
            if now_s - away_since_s >= most_s:
                raise
            sleep(_PAUSES_S[min(attempt, len(_PAUSES_S) - 1)])
            attempt += 1
        else:
            if away_since_s is not None:
                say("the server is there again")
            return done


def _blocks(path: Path, start: int, told: Callable[[int], None]) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK_BYTES):
            yield block
            told(len(block))


def _task(found: Mapping[str, Any]) -> TaskState:
    try:
        status = found["status"]
        return TaskState(
            str(found["uuid"]),
            str(found.get("name") or ""),
            int(status["code"]),
            float(found.get("progress") or 0.0),
            int(found.get("imagesCount") or 0),
            int(found.get("dateCreated") or 0),
            int(found.get("processingTime") or -1),
            str(status.get("errorMessage") or ""),
            tuple(str(line) for line in found.get("output") or ()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise RemoteError("the server's answer about the task is not what NodeODM's API says") from None
