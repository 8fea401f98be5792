"""`passel serve`: puts the coordinator together and runs it until it is told to stop. The composition root beside cli.py.

One asyncio process (decision 4): the public port with API, field kit and web pages; the workers' port; two unix sockets;
as children the local worker and a driver for each running job. Children hold one end of a pipe, so a kill -9 of this process
takes them along; everything else that matters is on disk, so the next start goes on by itself.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import uvloop

from passel.cluster.coordinator.admin import AdminApi, JobLine, Overview, Pace, overview_of
from passel.cluster.coordinator.coordinator import Coordinator, Listen
from passel.cluster.coordinator.data_folder import DataFolder
from passel.cluster.coordinator.listening import is_loopback, public_socket, serve_on_socket, trouble_at
from passel.cluster.kit.bundle import is_whole
from passel.cluster.trust.admit import Door
from passel.cluster.trust.authority import Authority, own_names
from passel.cluster.trust.identity import Identity, key_digest
from passel.cluster.trust.roster import Roster
from passel.cluster.trust.tokens import OWN_NAME, AccessBook, Throttle, Tokens
from passel.cluster.worker.agent_options import AgentOptions
from passel.cluster.worker.local_worker import LocalWorker
from passel.errors import PasselError
from passel.gateway.desk import NodeDesk
from passel.gateway.gateway import Gateway, GatewaySettings
from passel.gateway.nodes_file import read_nodes_file
from passel.gateway.policy import Policy, read_policy
from passel.pipeline.task_limit import too_few_tasks
from passel.server.app import PasselServer, create_app
from passel.server.jobs import ENDED, State
from passel.server.ports import Task
from passel.server.settings import ServerSettings
from passel.serving.api import AllMachines, ApiTokens, driver_command
from passel.serving.bucket import artifact_bucket, bucket_kept_clean
from passel.serving.fleet import FleetCoordinator, results_bucket
from passel.serving.gateway import FleetNodes, GatewayJobs, OwnWorkers, PublicDoor
from passel.serving.options import JOIN_TOKEN_DAYS, Ready, ServeOptions
from passel.serving.public import PublicTls, announced_here, kit_made, public_port
from passel.serving.ui import UiNodes, UiPassel, UiSurveyor, join_lines
from passel.web.app import add_ui
from passel.web.ports import Services

PATIENCE_S = 3.0
"""How long the local worker may go on with its steps after Ctrl-C; what it loses is made again."""
_LOOK_EVERY_S = 5.0
_TASKS = 32
"""Processes and threads of the server, a driver and a worker with one step: with fewer, no job ends."""
_log = logging.getLogger("passel.serve")


def serve(options: ServeOptions, on_ready: Callable[[Ready], None]) -> None:
    """Runs until SIGINT, SIGTERM or SIGHUP. Raises PasselError when it cannot begin."""
    folder = DataFolder(options.server.data)
    folder.prepare()
    if few := too_few_tasks(_TASKS):
        raise PasselError(f"this computer cannot serve: {few}")
    with folder.locked():
        uvloop.run(_Serving(options, folder).run(on_ready))


class _Serving:
    """A coordinator from its start to its end."""

    def __init__(self, options: ServeOptions, folder: DataFolder) -> None:
        self._options, self._folder = options, folder
        self._authority = Authority.open(folder.identity)
        self._book = AccessBook(folder.access)
        self._tokens = Tokens(self._book, self._authority.fingerprint)
        self._roster = Roster(self._book, self._tokens)
        self._drained = self._roster.drained()
        self._tls = self._authority.server_context(own_names())
        self._public_tls = PublicTls(options.tls) if options.tls is not None else None
        throttle = Throttle()
        door = Door(self._authority, self._roster, throttle)
        admin = AdminApi(self, self._tokens, throttle)
        bucket = artifact_bucket(options, self._authority.fingerprint)
        self._coordinator = Coordinator(self._roster.is_member, [*door.routes(), *admin.routes()], bucket)
        self._port = self._workers_port = 0
        self._policy = read_policy(options.policy) if options.policy else Policy()
        self._gateway = self._make_gateway()
        self._server = self._make_server()
        self._local_name = ""
        self._surveyor = self._add_ui()
        self._pace = Pace()
        self._began_s = time.monotonic()
        self._stop = asyncio.Event()
        self._signals = 0

    async def run(self, on_ready: Callable[[Ready], None]) -> None:
        """Listens, works, stops: what was begun last is ended first."""
        options = self._options
        async with AsyncExitStack() as stack:
            self._listen_to_signals()
            public = stack.enter_context(public_socket(options.listen, options.port))
            port: int = public.getsockname()[1]
            workers_port = await self._start_coordinator(stack)
            self._port, self._workers_port = port, workers_port
            if self._gateway is not None:
                await self._gateway.start()
                stack.push_async_callback(self._gateway.close)
            doors = public_port(self._server, public, self._folder.wheels, workers_port, self._public_tls)
            await stack.enter_async_context(doors)
            if options.worker and not options.is_test:
                worker = self._local_worker(workers_port)
                worker.start()
                stack.push_async_callback(worker.stop, PATIENCE_S)
            if not options.is_local:
                fingerprint = self._authority.fingerprint
                await stack.enter_async_context(announced_here(options, workers_port, fingerprint))
                await stack.enter_async_context(kit_made(self._folder.wheels))
            stack.push_async_callback(self._surveyor.close)
            if options.fleet is not None:
                stack.push_async_callback(self._start_fleet(options.fleet))
            cleaning = bucket_kept_clean(self._coordinator, lambda job: self._server.service.folder(job).output)
            await stack.enter_async_context(cleaning)
            ready = self._ready(port, workers_port)
            on_ready(ready)
            watching = asyncio.create_task(self._look_around(ready, on_ready))
            stack.callback(watching.cancel)
            await self._stop.wait()
            _log.info("stopping")
            self._coordinator.part()
        self._book.close()

    # ---- what admin.py asks for

    def overview(self) -> Overview:
        """This moment."""
        service = self._server.service
        jobs = tuple(
            JobLine(
                j.uuid, j.order.name, j.state.value, j.images_count, round(j.progress, 1), service.live(j).stages.rest_s
            )
            for j in service.all_tasks()
            if j.state not in ENDED
        )
        uptime_s = time.monotonic() - self._began_s
        members = self._roster.members()
        return overview_of(self._options.name, uptime_s, self._pace, jobs, self._coordinator.status(), members)

    def drain(self, worker: str, drained: bool) -> bool:
        """Whether there is such a worker. It holds beyond the next start, of the worker and of this process."""
        found = self._coordinator.drain(worker, drained)
        if found:
            self._roster.note_drained(worker, drained)
            self._drained = self._roster.drained()
        return found

    def revoke(self, worker: str) -> None:
        """Raises UsageError."""
        self._roster.revoke(worker)
        self._coordinator.cut(worker)

    # ---- where it is, at this moment: laptops change networks, and networks give out other addresses

    def _page(self) -> str:
        """For other machines, '' when they cannot reach it."""
        options = self._options
        return "" if options.is_local else options.public_url or options.page(self._port)

    def _join_lines(self) -> tuple[str, ...]:
        options = self._options
        return () if options.is_local else join_lines(options.page(self._port), options.hosts[0], self._workers_port)

    # ---- parts

    def _make_server(self) -> PasselServer:
        options = self._options
        if options.token:
            self._tokens.adopt("api", options.token, OWN_NAME)
        checker = ApiTokens(self._tokens) if options.token or not options.is_local else None
        bucket = results_bucket(options.fleet) if options.fleet is not None and not options.is_test else None
        machines = AllMachines(self._coordinator, self._gateway)
        return create_app(self._server_settings(), self._driver_command, checker, machines, results=bucket)

    def _server_settings(self) -> ServerSettings:
        """With the policy's limits: what a token may not do is refused while it is sent."""
        policy, settings = self._policy, self._options.server
        return replace(settings, limits_of=lambda owner: policy.limits(owner, settings.limits))

    def _make_gateway(self) -> Gateway | None:
        """NodeODM nodes that work for us; `passel node add` may bring some at any time."""
        options = self._options
        if options.is_test:
            return None
        jobs = GatewayJobs(lambda: self._server.service)
        door = PublicDoor(self._tokens, self._page)
        workers = OwnWorkers(lambda: self._coordinator.status().workers)
        settings = GatewaySettings(options.engine, self._policy, allow_private_urls=options.server.allow_private_urls)
        gateway = Gateway(self._folder.root, settings, jobs, door, workers)
        for node in read_nodes_file(options.nodes) if options.nodes else ():
            gateway.book.enroll(node)
        return gateway

    def _add_ui(self) -> UiSurveyor:
        """The web pages, beside the API."""
        service = self._server.service
        surveyor = UiSurveyor(
            lambda uuid: service.folder(uuid).output,
            lambda: sum(w.slots.cpus for w in self._coordinator.status().workers if w.state != "lost"),
            lambda: [service.folder(j.uuid).output for j in service.all_tasks() if j.state is State.COMPLETED][-20:],
        )
        testing = self._options.is_test
        others = self._options.typed("serve --listen 0.0.0.0")
        passel = None if testing else UiPassel(self, self._tokens, self._join_lines, lambda: self._local_name, others)
        nodes = UiNodes(NodeDesk(self._gateway.book)) if self._gateway is not None else None
        add_ui(self._server, Services(passel, None if testing else surveyor, nodes))
        return surveyor

    def _driver_command(self, task: Task, lifeline_fd: int) -> tuple[str, ...]:
        self._surveyor.stop(task.uuid)  # it holds the project's lock
        forwarder = self._gateway.command(task, lifeline_fd) if self._gateway is not None else None
        return forwarder or driver_command(self._folder.driver_socket, task, lifeline_fd)

    async def _start_coordinator(self, stack: AsyncExitStack) -> int:
        """The workers' port, and the unix sockets for drivers and for `passel status`."""
        options = self._options
        host = "" if options.listen == "::" else options.listen  # asyncio's "::" leaves IPv4 out, "" does not
        try:
            listen = Listen(host, options.workers_port, self._tls, self._folder.driver_socket)
            port = await self._coordinator.start(listen)
        except OSError as e:
            raise trouble_at(e, options.listen, options.workers_port, "--workers-port") from e
        stack.push_async_callback(self._coordinator.close)
        routes = AdminApi(self, None, Throttle()).routes()
        await stack.enter_async_context(serve_on_socket(routes, self._folder.admin_socket))
        return port

    def _local_worker(self, workers_port: int) -> LocalWorker:
        folder = self._folder.local_worker
        identity = Identity(folder / "identity")
        name = self._roster.enlist(socket.gethostname(), key_digest(identity.own_key().public_key()))
        self._authority.issue(identity.folder, name)
        self._local_name = name
        host = self._options.listen if self._options.listen not in ("0.0.0.0", "::") else "127.0.0.1"
        url = f"https://{f'[{host}]' if ':' in host else host}:{workers_port}"
        (folder / "cache").mkdir(parents=True, exist_ok=True)
        cores = self._options.cores
        return LocalWorker(AgentOptions(url, identity.folder, folder / "cache", workers=cores, local=True))

    def _start_fleet(self, file: Path) -> Callable[[], Awaitable[None]]:
        """Machines in the cloud that come and go with the work, turned in a thread; returns how it is stopped."""
        from passel.fleet.start import start_fleet  # the clouds' libraries are large, and most passels need none

        coordinator = FleetCoordinator(self, self._tokens, asyncio.get_running_loop())
        nodes = FleetNodes(self._gateway.book) if self._gateway is not None else None
        fleet = start_fleet(file, self._folder.root, coordinator, nodes, _log.info)

        async def stop() -> None:
            words = await asyncio.to_thread(fleet.stop)
            if words:
                _log.warning("%s", words)

        return stop

    def _ready(self, port: int, workers_port: int) -> Ready:
        options = self._options
        fresh = {"join": "", "api": ""}
        if not options.is_local:
            if not self._tokens.usable("join"):
                fresh["join"] = self._tokens.create("join", expires_in_s=86_400.0 * JOIN_TOKEN_DAYS)
            if not self._tokens.usable("api"):
                fresh["api"] = self._tokens.create("api", OWN_NAME)
        kit = is_whole(self._folder.wheels)
        return Ready(options, port, workers_port, options.hosts, fresh["join"], fresh["api"], kit)

    async def _look_around(self, told: Ready, on_ready: Callable[[Ready], None]) -> None:
        """Now and then: count steps, follow this machine's addresses, stop what cancelled jobs left running."""
        names = own_names()
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self._server.service.look_again()  # a node may have come
            status = self._coordinator.status()
            self._pace.look(sum(w.steps_done for w in status.workers))
            running = {j.uuid for j in self._server.service.all_tasks() if j.state is State.RUNNING}
            for job in status.jobs:
                if job.job not in running:
                    self._coordinator.end_job(job.job)
            for worker in status.workers:  # those that came back since this process was started
                if worker.name in self._drained and worker.state not in ("draining", "lost"):
                    self._coordinator.drain(worker.name)
            names = self._renew(names)
            told = self._tell_where(told, on_ready)
            if self._public_tls is not None:
                self._public_tls.follow()

    def _tell_where(self, told: Ready, on_ready: Callable[[Ready], None]) -> Ready:
        """Says again what to type when that has changed; while there is no network at all, nothing."""
        hosts = self._options.hosts
        if hosts[0] == told.hosts[0] or is_loopback(hosts[0]):
            return told
        told = replace(told, hosts=hosts, join_token="", api_token="", kit=is_whole(self._folder.wheels), moved=True)
        on_ready(told)
        return told

    def _renew(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """A certificate for the addresses that this machine has now."""
        try:
            names = own_names()
            if names != known:
                self._authority.renew(self._tls, names)
        except (PasselError, OSError) as e:
            _log.warning("the certificate for new addresses was not made: %s", e)  # the one in use still serves
            return known
        return names

    def _listen_to_signals(self) -> None:
        def heard() -> None:
            self._signals += 1
            self._stop.set()
            if self._signals > 2:
                _log.warning("stopping at once")
                os._exit(130)  # children end with their lifelines

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, heard)
