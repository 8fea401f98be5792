"""The routes of NodeODM's API, as its clients know them: errors are 200 with `error`, actions answer `success`."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from fastapi import APIRouter, Request
from starlette.responses import Response

from passel.errors import StorageError
from passel.server.api_options import options_json
from passel.server.clock import now_ms
from passel.server.jobs import Job, JobError, Order
from passel.server.openapi import ORDER_FIELDS, form, query
from passel.server.orders import options_from, order_from
from passel.server.ports import Machine
from passel.server.requests import Desk, answer
from passel.server.service import JobService
from passel.server.settings import API_VERSION, ServerSettings
from passel.server.wire import PASSELS_HEADER, info_fields

MOST_QUEUED_SHOWN = 2**31 - 1


def nodeodm_routes(desk: Desk, machine: Callable[[], Machine]) -> APIRouter:
    """All routes of NodeODM but the download."""
    router = APIRouter(tags=["NodeODM"])
    _node_routes(router, desk, machine)
    _task_routes(router, desk)
    _new_routes(router, desk)
    _action_routes(router, desk)
    return router


def _node_routes(router: APIRouter, desk: Desk, machine: Callable[[], Machine]) -> None:
    options = options_json()

    @router.get("/info", summary="What this server is, and how busy", openapi_extra=query("token"))
    async def info(request: Request) -> Response:
        if request.query_params.get("_debugUnauthorized"):
            return Response(status_code=401)
        now = machine()
        response = answer(_info(desk.service, desk.owner(request), now))
        if now.passels:
            response.headers[PASSELS_HEADER] = ", ".join(now.passels)
        return response

    @router.get("/options", summary="Options of a task", openapi_extra=query("token"))
    async def get_options(request: Request) -> Response:
        desk.owner(request)
        return Response(options, media_type="application/json")

    @router.get("/auth/info", summary="How to log in")
    async def auth_info() -> Response:
        needed = "" if desk.access.is_open else " A token is needed."
        message = f"Log-in is not used here.{needed}"
        return answer({"message": message, "loginUrl": None, "registerUrl": None})

    @router.post("/auth/login", summary="Not used")
    async def login() -> Response:
        return answer({"error": "Not available"})

    @router.post("/auth/register", summary="Not used")
    async def register() -> Response:
        return answer({"error": "Not available"})


def _info(service: JobService, owner: str, machine: Machine) -> dict[str, object]:
    settings = service.settings
    return {
        "version": API_VERSION,
        "taskQueueCount": min(service.queue_count(), MOST_QUEUED_SHOWN),
        "totalMemory": machine.total_memory_bytes,
        "availableMemory": machine.available_memory_bytes,
        "cpuCores": machine.cpus,
        "maxImages": settings.limits_for(owner).max_images,
        "maxParallelTasks": service.lanes(),
        "engineVersion": settings.engine_version[:32],
        "engine": settings.engine,
    }


def _task_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    @router.get("/task/list", summary="All tasks of this token", openapi_extra=query("token"))
    async def task_list(request: Request) -> Response:
        owner = desk.owner(request)
        rows = ",".join(f'{{"uuid":"{job.uuid}"}}' for job in service.tasks_of(owner))
        return Response(f"[{rows}]".encode(), media_type="application/json")

    @router.get("/task/{uuid}/info", summary="State of a task", openapi_extra=query("token", "with_output"))
    async def task_info(uuid: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        wanted = request.query_params.get("with_output")
        output = None if wanted is None else service.output(job, _line(wanted))
        return answer(info_fields(job, now_ms(), output))

    @router.get("/task/{uuid}/output", summary="Console of a task", openapi_extra=query("token", "line"))
    async def task_output(uuid: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        return answer(service.output(job, _line(request.query_params.get("line", "0"))))


def _line(text: str) -> int:
    """A line number as JavaScript reads it: what is none is 0."""
    match = re.match(r"\s*([+-]?\d{1,15})", text, re.ASCII)
    return int(match.group(1)) if match else 0


def _new_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    @router.post("/task/new/init", summary="Begin a task", openapi_extra=form(*ORDER_FIELDS, uuid_header=True))
    async def init(request: Request) -> Response:
        owner = desk.owner(request)
        order = order_from(await desk.form(request), service.settings, now_ms())
        job = await service.create(order, owner, request.headers.get("set-uuid", ""))
        return answer({"uuid": job.uuid})

    @router.post("/task/new/upload/{uuid}", summary="Add photos to it", openapi_extra=form("images"))
    async def upload(uuid: str, request: Request) -> Response:
        job = service.uploading(uuid, desk.owner(request))
        if _dropped(service.settings):
            return answer({"error": "dropped on purpose"}, 500)
        files = await _receive_files(desk, job, request)
        if not files:
            return answer({"error": "Need at least 1 file.", "noRetry": True})
        return answer({"success": True, "files": files})

    @router.post("/task/new/commit/{uuid}", summary="All photos are there: go")
    async def commit(uuid: str, request: Request) -> Response:
        owner = desk.owner(request)
        await desk.form(request)
        job = await service.commit(uuid, owner)
        return answer({"uuid": job.uuid})

    @router.post(
        "/task/new", summary="All in one request", openapi_extra=form("images", *ORDER_FIELDS, uuid_header=True)
    )
    async def new(request: Request) -> Response:
        owner = desk.owner(request)
        empty = order_from({"skipPostProcessing": "true"}, service.settings, now_ms())
        job = await service.create(empty, owner, request.headers.get("set-uuid", ""))
        done = False
        try:
            with service.receive(job) as receiver:
                fields = await desk.form(request, receiver.open)
                order = order_from(fields, service.settings, now_ms())
                if not await asyncio.to_thread(receiver.settle) and not order.zip_url and not order.urls:
                    raise JobError("Need at least 1 file or a zip file url.")
            await service.amend(job, order)
            await service.commit(job.uuid, owner)
            done = True
        finally:
            if not done:
                await service.remove(job.uuid, owner)
        return answer({"uuid": job.uuid})


def _dropped(settings: ServerSettings) -> bool:
    """--test-drop-uploads: half of them."""
    return settings.test is not None and settings.test.drop_uploads and random.random() < 0.5


def _action_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    async def act(request: Request, action: Callable[[dict[str, str], str], Awaitable[None]]) -> Response:
        owner = desk.owner(request)
        fields = await desk.form(request)
        try:
            await action(fields, owner)
        except (JobError, StorageError) as e:
            return answer({"success": False, "error": str(e)})
        return answer({"success": True})

    @router.post("/task/cancel", summary="Stop a task", openapi_extra=form("uuid"))
    async def cancel(request: Request) -> Response:
        return await act(request, lambda fields, owner: service.cancel(fields.get("uuid", ""), owner))

    @router.post("/task/remove", summary="Delete a task and its files", openapi_extra=form("uuid"))
    async def remove(request: Request) -> Response:
        return await act(request, lambda fields, owner: service.remove(fields.get("uuid", ""), owner))

    @router.post("/task/restart", summary="Begin a task anew", openapi_extra=form("uuid", "options"))
    async def restart(request: Request) -> Response:
        async def action(fields: dict[str, str], owner: str) -> None:
            def change(order: Order) -> Order:
                choice = options_from(fields, order, service.settings)
                return order if choice is None else replace(order, options=choice.options, ignored=choice.ignored)

            await service.restart(fields.get("uuid", ""), owner, change)

        return await act(request, action)


async def _receive_files(desk: Desk, job: Job, request: Request) -> list[dict[str, object]]:
    with desk.service.receive(job) as receiver:
        await desk.form(request, receiver.open)
        received = await asyncio.to_thread(receiver.settle)
    desk.service.touch(job)
    return [{"name": r.name, "size": r.size, "sha256": r.sha256} for r in received]
