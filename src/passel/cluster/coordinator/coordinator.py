"""The coordinator: HTTPS for the workers, the unix socket for the drivers, and between them the dispatcher.

One asyncio loop, in which nothing waits for a disk. The truth is elsewhere (decision 4): if this process dies, jobs are started
again by whoever runs it, workers go on, and what they finish is taken.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from aiohttp import web

from passel.cluster.coordinator.bucket import ArtifactBucket, BucketError, LostError
from passel.cluster.coordinator.data_plane import WORKER, DataPlane, Handler, problem
from passel.cluster.coordinator.dispatch import Dispatcher
from passel.cluster.coordinator.dispatch_state import ReplacedError, StalePollError
from passel.cluster.coordinator.driver_link import DriverLink
from passel.cluster.coordinator.setbacks import HOLD_S
from passel.cluster.coordinator.status import PasselStatus, capacity_of, status_of
from passel.cluster.wire.drivers import Brought, Capacity, Hello, ReadyStep
from passel.cluster.wire.versions import other_version
from passel.cluster.wire.workers import (
    LONGEST_WAIT_S,
    MOST_POLL_BYTES,
    POLL_PATH,
    Failure,
    PollReply,
    PollRequest,
    WireError,
    decode,
    encode,
)
from passel.errors import PasselError, StorageError
from passel.pipeline.store import is_full_disk

_TICK_S = 0.5
_SWEEP_S = 300.0
_MEMBER_S = 2.0
_FULL_PAUSE_S = 10.0
_READ_BYTES = 2**18
"""Of a request that are read ahead: as much as the event loop reads at a time, or an upload stops and starts all the time."""
_log = logging.getLogger("passel.coordinator")


@dataclass(frozen=True)
class Listen:
    """Where the coordinator is reached. port 0: any free one. tls: with the workers' authority; None only in tests."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    driver_socket: Path


class Coordinator:
    """Start it in a running loop.

    is_member: whether a worker of this name may speak to us. open_routes: what needs no certificate (joining).
    bucket: where workers put large artifacts.
    """

    def __init__(
        self,
        is_member: Callable[[str], bool],
        open_routes: Sequence[web.RouteDef] = (),
        bucket: ArtifactBucket | None = None,
    ) -> None:
        self._is_member = is_member
        self._open_paths = {route.path for route in open_routes}
        self._dispatcher = Dispatcher(secrets.token_hex(4))
        self._data = DataPlane(bucket, self._lost, self._delivered)
        self._bringing: set[asyncio.Task[None]] = set()
        self._held: dict[str, asyncio.Future[None]] = {}
        self._capacity = Capacity(0, 0, 0)
        self._member_until_s: dict[str, float] = {}
        self._pump_soon = self._parting = False
        self._links: DriverLink | None = None
        self._runner: web.AppRunner | None = None
        self._ticker: asyncio.Task[None] | None = None
        self.app = web.Application(middlewares=[self._gate], client_max_size=MOST_POLL_BYTES)
        self.app.add_routes([web.post(POLL_PATH, self._poll), *self._data.routes(), *open_routes])

    async def start(self, listen: Listen) -> int:
        """Listens; returns the port. Raises OSError when it is taken, StorageError for the socket of the drivers."""
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.close)
            port = await self._start(listen)
            undo.pop_all()
        return port

    async def _start(self, listen: Listen) -> int:
        self._links = DriverLink(listen.driver_socket, self)
        await self._links.start()
        # A handler is cancelled when its connection breaks: that is how a worker's death is noticed at once.
        self._runner = web.AppRunner(
            self.app, handler_cancellation=True, access_log=None, shutdown_timeout=2.0, read_bufsize=_READ_BYTES
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, listen.host, listen.port, ssl_context=listen.tls)
        await site.start()
        self._start_ticker()
        return int(self._runner.addresses[0][1])

    async def close(self) -> None:
        """Stops listening; drivers see their link end, workers go on with what they have."""
        if self._ticker:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        for waiting in (*self._held.values(), *self._bringing):
            waiting.cancel()
        if self._links:
            await self._links.close()
        if self._runner:
            await self._runner.cleanup()
        await asyncio.to_thread(self._data.close)

    # ---- for people

    def status(self) -> PasselStatus:
        """Workers, jobs, what runs and waits."""
        return status_of(self._dispatcher, time.monotonic())

    def drain(self, worker: str, drained: bool = True) -> bool:
        """No new steps for this worker (with False: again some). False when there is no such worker."""
        found = self._dispatcher.drain(worker, drained)
        self._pump()
        return found

    def cut(self, worker: str) -> None:
        """The worker was revoked: its steps go to others, its polls are refused."""
        self._member_until_s.pop(worker, None)
        self._dispatcher.cut(worker, time.monotonic())
        self._pump()

    def end_job(self, job: str) -> None:
        """The job was cancelled or is over: its driver ends, its steps are stopped, its files are no longer served."""
        if self._links:
            self._links.dismiss(job)
        self._withdraw(job)

    async def clean_bucket(self, is_wanted: Callable[[str], bool]) -> None:
        """Removes from the bucket what is there of jobs that have no store any more (is_wanted: whether one has)."""
        await self._data.away.remove_unwanted(is_wanted)

    def part(self) -> None:
        """This process is about to end, and drivers with it: what runs for them goes on, for they will come again."""
        self._parting = True

    # ---- drivers (DriverEvents)

    def driver_came(self, hello: Hello) -> None:
        self._data.attach(hello.job, Path(hello.store))
        self._dispatcher.begin(hello, time.monotonic())
        if self._links:
            self._links.tell(hello.job, self._capacity_now())

    def step_ready(self, job: str, step: ReadyStep) -> None:
        self._data.add_files(job, step)
        self._dispatcher.submit(job, step, time.monotonic())
        if not self._pump_soon:  # steps come in bursts: they are placed together
            self._pump_soon = True
            asyncio.get_running_loop().call_soon(self._pump)

    def files_wanted(self, job: str, digest: str) -> None:
        task = asyncio.create_task(self._bring(job, digest))
        self._bringing.add(task)
        task.add_done_callback(self._bringing.discard)

    async def _bring(self, job: str, digest: str) -> None:
        """Tries for as long as the driver is there: what it wants to read is the way to the job's end. Only room must come in time."""
        pause_s = _TICK_S
        while self._links and self._links.has(job):
            try:
                await self._data.bring(job, digest)
            except LostError:
                return  # `_lost` has sent the driver round again
            except BucketError as error:
                _log.warning("job %s waits for the bucket: %s", job, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _SWEEP_S)
            except StorageError as error:
                disk = self._data.full.get(job)
                if not is_full_disk(error) or (disk is not None and disk.full_s > HOLD_S):
                    self._links.tell(job, Brought(digest, _failure(error)))
                    return
                await asyncio.sleep(_FULL_PAUSE_S)
            else:
                self._links.tell(job, Brought(digest))
                return

    def _lost(self, job: str) -> None:
        """What was finished is finished no more: the driver ends, is started again, and has it made again."""
        if self._links:
            self._links.dismiss(job)

    def driver_left(self, job: str, withdrawn: bool) -> None:
        if withdrawn and not self._parting:
            self._withdraw(job)
        else:
            self._dispatcher.leave(job, time.monotonic())

    def _withdraw(self, job: str) -> None:
        self._dispatcher.withdraw(job, time.monotonic())
        self._data.forget(job)
        self._pump()

    def _delivered(self, job: str, digest: str, worker: str) -> None:
        self._dispatcher.delivered(job, digest, worker)
        self._pump()

    # ---- workers

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who speaks, and is it of our version?"""
        if request.path in self._open_paths:
            return await handler(request)
        name = _peer_name(request)
        if not name:
            return problem(401, PasselError("No certificate was shown", todo="passel join"))
        if self._member_until_s.get(name, 0.0) < time.monotonic():  # asking costs a look into a database
            if not self._is_member(name):
                return problem(403, _shut_out(name))
            self._member_until_s[name] = time.monotonic() + _MEMBER_S
        if (refusal := other_version(request.headers, name)) is not None:
            return problem(426, refusal)
        request[WORKER] = name
        return await handler(request)

    async def _poll(self, request: web.Request) -> web.StreamResponse:
        name: str = request[WORKER]
        try:
            message = decode(PollRequest, await request.read())
        except WireError as error:
            return problem(400, error)
        earlier = self._held.pop(name, None)
        if earlier and not earlier.done():
            earlier.set_result(None)
        try:
            self._dispatcher.poll(name, message, time.monotonic())
        except StalePollError:
            return self._answer(PollReply(message.seq))  # nobody reads it: the worker has polled again
        except ReplacedError as error:
            return problem(403, error)
        self._pump()
        if not self._dispatcher.has_news(name, time.monotonic()):
            await self._hold(name, message)
        worker = self._dispatcher.workers.get(name)
        if worker is None:
            return problem(403, _shut_out(name))
        if worker.request is not message:
            return self._answer(PollReply(message.seq))  # overtaken while it was held: nobody reads this
        return self._answer(self._dispatcher.reply(name, message.seq, time.monotonic()))

    def _answer(self, reply: PollReply) -> web.Response:
        body = encode(replace(reply, bucket=self._data.away.in_use))
        return web.Response(body=body, content_type="application/json")

    async def _hold(self, name: str, message: PollRequest) -> None:
        """Waits until there is something to say, or a later poll overtakes this one."""
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held[name] = held
        try:
            async with asyncio.timeout(min(message.wait_s, LONGEST_WAIT_S)):
                await held
        except TimeoutError:
            pass  # then the answer says nothing, and the worker polls again
        except asyncio.CancelledError:
            self._dispatcher.connection_broke(name, message, time.monotonic())
            raise
        finally:
            if self._held.get(name) is held:
                del self._held[name]

    def _pump(self) -> None:
        """After any change: place what can be placed, and tell everybody what is new for them."""
        self._pump_soon = False
        now_s = time.monotonic()
        self._dispatcher.match(now_s)
        for name, held in self._held.items():
            gone = name not in self._dispatcher.workers
            if not held.done() and (gone or self._dispatcher.has_news(name, now_s)):
                held.set_result(None)
        if self._links is None:
            return
        for job, news in self._dispatcher.take_news():
            self._links.tell(job, news)
        capacity = self._capacity_now()
        if capacity != self._capacity:
            self._capacity = capacity
            self._links.tell_all(capacity)

    def _capacity_now(self) -> Capacity:
        capacity = capacity_of(self._dispatcher)
        return replace(capacity, takes_artifacts=False) if self._data.full else capacity

    def _give_up_where_no_room_came(self) -> None:
        """What is finished on workers waits to be taken; if nobody makes room for it for long, its job ends in clear words."""
        for job, disk in self._data.full.items():
            if disk.full_s > HOLD_S:
                try:
                    disk.refuse()
                except StorageError as error:
                    self._dispatcher.give_up(job, _failure(error))

    def _start_ticker(self) -> None:
        self._ticker = asyncio.create_task(self._tick())
        self._ticker.add_done_callback(self._ticker_ended)

    def _ticker_ended(self, ticker: asyncio.Task[None]) -> None:
        """Without it nobody would notice that a worker is lost: a bug in a tick must not be the last one's."""
        if not ticker.cancelled():
            _log.error("the coordinator's clock met a bug", exc_info=ticker.exception())
            self._start_ticker()

    async def _tick(self) -> None:
        swept_s = time.monotonic()
        while True:
            await asyncio.sleep(_TICK_S)
            self._dispatcher.tick(time.monotonic())
            self._give_up_where_no_room_came()
            self._pump()
            if time.monotonic() - swept_s > _SWEEP_S:
                swept_s = time.monotonic()
                await asyncio.to_thread(self._data.sweep)


def _failure(error: StorageError) -> Failure:
    return Failure("storage", error.what, error.where, error.todo)


def _peer_name(request: web.Request) -> str:
    """The common name in the certificate that the other end has proven, '' without one."""
    certificate = request.transport.get_extra_info("peercert") if request.transport else None
    subject = (certificate or {}).get("subject", ())
    return next((value for part in subject for key, value in part if key == "commonName"), "")


def _shut_out(name: str) -> PasselError:
    return PasselError("This worker was shut out", name, "join again with a new identity")
