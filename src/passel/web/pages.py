"""The pages: files of `static/`, shipped in the package, needing nothing from elsewhere."""

from __future__ import annotations

import hashlib
import mimetypes
from importlib import resources

from fastapi import APIRouter, Request
from starlette.responses import Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; "
    "connect-src 'self'; manifest-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
"""Styles may stand in elements (widths of bars); scripts never."""
_FOLDER = "static"
mimetypes.add_type("text/javascript", ".js")


def page_routes() -> APIRouter:
    """`/` and `/ui/<file>`; no token needed, for they hold nothing of anybody."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("passel.web") / _FOLDER
    files = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}
    tags = {name: f'"{hashlib.sha256(body).hexdigest()[:20]}"' for name, body in files.items()}

    def page(name: str, request: Request) -> Response:
        if name not in files:
            return Response(b"There is no such page.", 404, media_type="text/plain")
        headers = {"ETag": tags[name], "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(files[name], headers=headers, media_type=kind)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return page("index.html", request)

    @router.api_route("/ui/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        return page(name, request)

    return router
