"""Data of the task pages: lists, live state, pictures, raster tiles. Tokens as everywhere; errors as `{"error"}`."""

from __future__ import annotations

import asyncio
import json
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from passel.errors import InputError
from passel.server.api_options import choose, words_for_driver
from passel.server.clock import now_ms
from passel.server.folders import inside
from passel.server.jobs import Job, JobError
from passel.server.requests import Desk, answer
from passel.server.sending import file_content, send
from passel.server.wire import info_fields
from passel.web.map_tiles import FILES, MapBox, map_box, profile_m, tile_png
from passel.web.ports import Services

LINES_SHOWN = 400
MOST_CORNERS = 100
FARTHEST_M = 1e8
"""No coordinate of a map projection of the Earth is as large."""
PICTURES = {"plan": "submodels.png", "first": "first_look.png", "orthophoto": "orthophoto.png", "dsm": "dsm.png"}
"""Pictures in odm_report/, by what they show; they appear while the job runs."""
_DAY = "private, max-age=86400"


def task_routes(desk: Desk, services: Services) -> APIRouter:
    """Everything below /ui/api/tasks."""
    router = APIRouter(prefix="/ui/api/tasks", include_in_schema=False)
    _state_routes(router, desk)
    _map_routes(router, desk)
    _survey_routes(router, desk, services)
    return router


def _state_routes(router: APIRouter, desk: Desk) -> None:
    service = desk.service

    @router.get("")
    async def tasks(request: Request) -> Response:
        jobs = list(service.tasks_of(desk.owner(request)))
        rows = await asyncio.to_thread(lambda: [_row(desk, job) for job in reversed(jobs)])
        return answer({"tasks": rows})

    @router.get("/{uuid}")
    async def task(uuid: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        live, steps_known = service.live(job), request.query_params.get("steps", "")
        output = service.output(job, -LINES_SHOWN)
        pictures = await asyncio.to_thread(_pictures, service.folder(job.uuid).output)
        fields = {**_row(desk, job), **info_fields(job, now_ms(), output), "holes": live.holes, "pictures": pictures}
        stages = [asdict(s) for s in live.stages.stages]
        steps = [asdict(s) for s in live.steps.since(steps_known)]
        return answer({**fields, "stages": stages, "steps": steps, "steps_mark": live.steps.mark})

    @router.get("/{uuid}/pictures/{name}")
    async def picture(uuid: str, name: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        path = service.folder(job.uuid).output / "odm_report" / PICTURES.get(name, "")
        if name not in PICTURES or not path.is_file():
            raise JobError("There is no such picture yet")
        return send(request, await asyncio.to_thread(file_content, path))

    @router.get("/{uuid}/report/{path:path}")
    async def report(uuid: str, path: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        file = inside(service.folder(job.uuid).output / "odm_report", path)
        if file is None or not file.is_file():
            raise JobError("There is no such page of the report")
        response = send(request, await asyncio.to_thread(file_content, file))
        response.headers["Content-Disposition"] = "inline"
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; frame-ancestors 'self'; sandbox"
        )
        return response


def _row(desk: Desk, job: Job) -> dict[str, object]:
    live = desk.service.live(job)
    return {
        "uuid": job.uuid,
        "name": job.order.name,
        "state": job.state.value,
        "progress": round(job.progress, 1),
        "imagesCount": job.images_count,
        "dateCreated": job.order.created_ms,
        "processingTime": job.processing_time_ms(now_ms()),
        "rest_s": live.stages.rest_s,
        "failure": job.error,  # not "error", which says that this answer is none
        "thumbnail": _thumbnail(desk.service.folder(job.uuid).output),
    }


def _thumbnail(output: Path) -> str:
    """The best picture there is of the map, '' for none yet."""
    return next((n for n in ("orthophoto", "first", "plan") if (output / "odm_report" / PICTURES[n]).is_file()), "")


def _pictures(output: Path) -> list[str]:
    return [name for name, file in PICTURES.items() if (output / "odm_report" / file).is_file()]


class _Boxes:
    """Map boxes of jobs, remembered until their files change."""

    def __init__(self) -> None:
        self._known: OrderedDict[Path, tuple[tuple[int, ...], MapBox | None]] = OrderedDict()

    def of(self, output: Path) -> MapBox:
        """Blocking. Raises JobError while there is no map."""
        stamp = tuple((output / f).stat().st_mtime_ns if (output / f).is_file() else 0 for f in FILES.values())
        known = self._known.get(output)
        if known is None or known[0] != stamp:
            known = self._known[output] = (stamp, map_box(output))
            while len(self._known) > 200:
                self._known.popitem(last=False)
        if known[1] is None:
            raise JobError("There is no map yet")
        return known[1]


def _map_routes(router: APIRouter, desk: Desk) -> None:
    service, boxes = desk.service, _Boxes()
    busy = asyncio.Semaphore(4)

    @router.get("/{uuid}/map")
    async def box(uuid: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        found = await asyncio.to_thread(boxes.of, service.folder(job.uuid).output)
        return answer(asdict(found))

    @router.get("/{uuid}/tiles/{layer}/{level}/{column}/{row}")
    async def tile(uuid: str, layer: str, level: int, column: int, row: int, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        output = service.folder(job.uuid).output
        async with busy:
            found = await asyncio.to_thread(boxes.of, output)
            png = await asyncio.to_thread(tile_png, output, found, layer, level, column, row)
        if png is None:
            return Response(status_code=204, headers={"Cache-Control": _DAY})
        return Response(png, headers={"Cache-Control": _DAY}, media_type="image/png")

    @router.get("/{uuid}/profile")
    async def profile(uuid: str, layer: str, line: str, request: Request) -> Response:
        job = service.task(uuid, desk.owner(request))
        output = service.folder(job.uuid).output
        found = await asyncio.to_thread(boxes.of, output)
        points = await asyncio.to_thread(profile_m, output, found, layer, line_of(line))
        return answer([[round(d, 3), None if math.isnan(z) else round(z, 3)] for d, z in points])


def line_of(text: str) -> Sequence[tuple[float, float]]:
    """'[[east, north], …]' as numbers. Raises InputError."""
    try:
        corners = [(float(e), float(n)) for e, n in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise InputError("the line must be a list of [east, north] in metres") from None
    if len(corners) > MOST_CORNERS or not all(abs(v) <= FARTHEST_M for c in corners for v in c):  # nan is not <= either
        raise InputError("the line has too many corners, or corners that are nowhere on Earth")
    return corners


def _survey_routes(router: APIRouter, desk: Desk, services: Services) -> None:
    @router.get("/{uuid}/survey")
    async def survey(uuid: str, request: Request) -> Response:
        """A look at the photos of an upload before it is committed; asked again and again until it is done."""
        job = desk.service.uploading(uuid, desk.owner(request))
        if services.surveyor is None:
            return answer({"state": "none"})
        options = choose(request.query_params.get("options", ""), True, 0).options
        words = words_for_driver(options)
        found = await services.surveyor.survey(job.uuid, desk.service.folder(job.uuid).photos, words)
        return answer(asdict(found))
