"""The server as one ASGI application.

    server = create_app(ServerSettings(data=…), driver=command, tokens=checker)
    uvicorn.Server(uvicorn_config(server, host, port))        # sockets.py

`server.api` is the FastAPI application (NiceGUI: `ui.run_with(server.api)`; more routes: `extra_routers`), `server.asgi` is
what uvicorn runs (it answers polls of task/info before FastAPI sees them), `server.service` are the jobs, for the web UI.
The service starts and stops with the application's lifespan. The database is opened, and errors of it raised, at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import psutil
from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from passel import __version__
from passel.errors import PasselError, StorageError
from passel.server.access import Access
from passel.server.canned import CannedDriver
from passel.server.files import file_routes
from passel.server.front import Front
from passel.server.job_store import JobStore
from passel.server.keeping import Keeper
from passel.server.multipart import SilentClientError
from passel.server.nodeodm import nodeodm_routes
from passel.server.outgoing import Gate
from passel.server.ports import Capacity, DriverCommand, Machine, OpenToAll, Results, TokenChecker
from passel.server.requests import Desk, answer
from passel.server.runner import Runner
from passel.server.service import JobService
from passel.server.settings import ServerSettings
from passel.server.webhooks import Webhooks

DATABASE = "jobs.sqlite"


@dataclass(frozen=True)
class PasselServer:
    """A server that is made, not yet running. See the module."""

    settings: ServerSettings
    api: FastAPI
    asgi: Front
    service: JobService
    access: Access


class ThisMachine:
    """The Capacity of a server that works alone."""

    def machine(self) -> Machine:
        """Memory and processors here."""
        memory = psutil.virtual_memory()
        return Machine(int(memory.total), int(memory.available), psutil.cpu_count() or 1)

    def more_tasks(self) -> int:
        """There is nobody else."""
        return 0


def create_app(
    settings: ServerSettings,
    driver: DriverCommand | None = None,
    tokens: TokenChecker | None = None,
    capacity: Capacity | None = None,
    extra_routers: Sequence[APIRouter] = (),
    results: Results | None = None,
) -> PasselServer:
    """Make a server. driver: how jobs are run; not needed with settings.test. tokens: None = open to all who can reach it.
    results: the bucket that keeps them, None = only the disk here does. StorageError when the data folder cannot be used.
    """
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise StorageError(
            f"The data folder cannot be made: {e.strerror}", str(settings.data), "choose another with --data"
        ) from None
    command = CannedDriver(settings.test) if settings.test is not None else driver
    if command is None:
        raise ValueError("a driver command is needed to run jobs")
    store = JobStore(settings.data / DATABASE)
    webhooks = Webhooks(store, Gate(settings.allow_private_urls), settings.webhook)
    runner = Runner(settings, store, command)
    keeper = None if results is None else Keeper(settings, store, runner.runtimes, results)

    def ended() -> None:
        webhooks.wake()
        if keeper is not None:
            keeper.wake()

    runner.on_end = ended
    service = JobService(settings, store, runner, webhooks, keeper)
    access = Access(tokens or OpenToAll(), settings.limits.wrong_tokens_a_minute)
    api = _api(service)
    desk = Desk(service, access)
    machines = (
        ThisMachine() if capacity is None or settings.test is not None else capacity
    )  # canned tasks have no workers
    runner.more_tasks = machines.more_tasks
    api.include_router(nodeodm_routes(desk, _remembered(machines.machine)))
    api.include_router(file_routes(desk))
    for router in extra_routers:
        api.include_router(router)
    return PasselServer(settings, api, Front(api, service, access), service, access)


def _api(service: JobService) -> FastAPI:
    api = FastAPI(
        title="Passel",
        version=__version__,
        summary="NodeODM's API and a little more",
        lifespan=_lifespan(service),
        openapi_url="/openapi.json",
        docs_url=None,  # its page loads scripts from the internet
        redoc_url=None,
    )
    api.add_api_route("/swagger.json", api.openapi, include_in_schema=False)
    api.add_exception_handler(PasselError, _tell_error)
    api.add_exception_handler(OSError, _tell_os_error)
    api.add_exception_handler(HTTPException, _tell_http)
    api.add_exception_handler(ClientDisconnect, _tell_nobody)
    return api


def _lifespan(service: JobService) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    return lifespan


async def _tell_error(_: Request, error: Exception) -> Response:
    """NodeODM's clients look for `error` in an answer with status 200."""
    response = answer({"error": str(error)})
    if isinstance(error, SilentClientError):
        response.headers["Connection"] = "close"
    return response


async def _tell_os_error(_: Request, error: Exception) -> Response:
    """A full disk, a file taken away: nothing was acknowledged, the client may try again."""
    text = error.strerror if isinstance(error, OSError) else None
    return answer({"error": f"The server's disk refuses: {text or type(error).__name__}"})


async def _tell_http(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return answer({"error": f"Cannot handle {request.url.path[:200]}"}, status)


async def _tell_nobody(_: Request, error: Exception) -> Response:
    """The client hung up in the middle of its request."""
    return Response(status_code=400)


def _remembered(ask: Callable[[], Machine]) -> Callable[[], Machine]:
    """The answer, asked for once a second at most."""
    kept: list[tuple[float, Machine]] = []

    def machine() -> Machine:
        now = time.monotonic()
        if not kept or now - kept[0][0] > 1:
            kept[:] = [(now, ask())]
        return kept[0][1]

    return machine
