"""The point cloud of a task for the viewer in the page: its octree, and the points of a node."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import fields
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from passel.server.jobs import JobError
from passel.server.requests import Desk
from passel.web.cloud_nodes import CLOUD, Cloud, CloudFile

_DAY = "private, max-age=86400"
_CLOUDS_KEPT = 4
"""Octrees that are remembered; one of 12,000 photos has about 30,000 nodes."""
_AT_ONCE = 2
"""Nodes that are unpacked at once: each takes some megabytes and a tenth of a second."""


class _Clouds:
    """Opened clouds, remembered until their files change."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[int, CloudFile]] = OrderedDict()

    def of(self, output: Path) -> CloudFile:
        """Blocking. Raises JobError while there is none, InputError when it cannot be shown."""
        path = output / CLOUD
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:
            raise JobError("There is no point cloud yet") from None
        known = self._known.get(path)
        if known is None or known[0] != changed_ns:
            known = self._known[path] = (changed_ns, CloudFile(path))
            while len(self._known) > _CLOUDS_KEPT:
                self._known.popitem(last=False)
        return known[1]


def _as_json(cloud: Cloud) -> bytes:
    """Without the copy that `asdict` makes: there may be a hundred thousand nodes."""
    return json.dumps({f.name: getattr(cloud, f.name) for f in fields(cloud)}, separators=(",", ":")).encode()


def cloud_routes(desk: Desk) -> APIRouter:
    """/ui/api/tasks/{uuid}/cloud."""
    router = APIRouter(prefix="/ui/api/tasks/{uuid}/cloud", include_in_schema=False)
    service, clouds, busy = desk.service, _Clouds(), asyncio.Semaphore(_AT_ONCE)

    @router.get("")
    async def cloud(uuid: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        async with busy:
            found = await asyncio.to_thread(clouds.of, service.folder(job.uuid).output)
        return Response(await asyncio.to_thread(_as_json, found.cloud), media_type="application/json")

    @router.get("/{level}/{x}/{y}/{z}")
    async def node(uuid: str, level: int, x: int, y: int, z: int, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        async with busy:
            found = await asyncio.to_thread(clouds.of, service.folder(job.uuid).output)
            packed = await asyncio.to_thread(found.node, level, x, y, z)
        return Response(packed, headers={"Cache-Control": _DAY}, media_type="application/octet-stream")

    return router
