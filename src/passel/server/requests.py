"""What all routes share: who asks, forms, answers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from passel.server.access import Access, token_in
from passel.server.multipart import FormLimits, OpenFile, no_files, read_form
from passel.server.service import JobService


@dataclass(frozen=True)
class Desk:
    """What routes work with."""

    service: JobService
    access: Access

    def owner(self, request: Request) -> str:
        """The owner who asks; WrongTokenError otherwise."""
        address = request.client.host if request.client else ""
        return self.access.owner_of(token_in(request.scope["query_string"], request.scope["headers"]), address)

    async def form(self, request: Request, open_file: OpenFile = no_files) -> dict[str, str]:
        """The fields of the body."""
        limits = self.service.settings.limits
        bounds = FormLimits(limits.max_field_bytes, limits.max_fields, limits.idle_s)
        return await read_form(request.headers, request.stream(), open_file, bounds)


def answer(content: object, status: int = 200) -> Response:
    """JSON, compact."""
    body = json.dumps(content, separators=(",", ":")).encode()
    return Response(body, status, media_type="application/json")
