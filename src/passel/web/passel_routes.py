"""Data of the pages about machines and tokens."""

from __future__ import annotations

import io
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import segno
from fastapi import APIRouter, Request
from starlette.responses import Response

from passel.errors import PasselError, UsageError
from passel.server.requests import Desk, answer
from passel.web.ports import Passel, Services

LONGEST_NAME = 60
INVITED_DAYS = 7
"""How long the token in the line for another machine is good, as with `passel serve`'s own."""
_DAY_S = 86400.0
_YEAR_S = 366 * _DAY_S


def passel_routes(desk: Desk, services: Services) -> APIRouter:
    """/ui/api/passel, /ui/api/invite and /ui/api/tokens. They concern the whole passel, so only the operator's tokens open them, as on the
    workers' port: whoever could make tokens could make one of anybody's name and see that one's tasks.
    """
    router = APIRouter(prefix="/ui/api", include_in_schema=False)
    passel = services.passel

    @router.get("/passel")
    async def view(request: Request) -> Response:
        check_operator(desk, request)
        if passel is None:
            return answer({"name": "", "workers": [], "join_lines": [], "alone": True})
        return answer(asdict(passel.view()))

    @router.get("/tokens")
    async def tokens(request: Request) -> Response:
        check_operator(desk, request)
        return answer({"tokens": [asdict(t) for t in passel.tokens()] if passel else [], "none": passel is None})

    if passel is not None:
        _order_routes(router, desk, passel)
    return router


def _order_routes(router: APIRouter, desk: Desk, passel: Passel) -> None:
    async def act(request: Request, action: Callable[[dict[str, str]], str]) -> Response:
        check_operator(desk, request)
        try:
            return answer({"success": True, "token": action(await desk.form(request))})
        except PasselError as e:
            return answer({"success": False, "error": str(e)})

    def order(path: str, action: Callable[[dict[str, str]], str]) -> None:
        async def handle(request: Request) -> Response:
            return await act(request, action)

        handler: Callable[[Request], Awaitable[Response]] = handle
        router.add_api_route(path, handler, methods=["POST"])

    def drain(fields: dict[str, str]) -> str:
        passel.drain(fields.get("worker", ""), fields.get("drained") == "true")
        return ""

    def shut_out(fields: dict[str, str]) -> str:
        passel.revoke_worker(fields.get("worker", ""))
        return ""

    def create(fields: dict[str, str]) -> str:
        kind, days = fields.get("kind", ""), fields.get("days", "")
        if kind not in ("join", "api"):
            raise UsageError("a token is for joining (join) or for programs and people (api)")
        return passel.create_token(kind, fields.get("name", "").strip()[:LONGEST_NAME], _lifetime_s(days))

    def revoke(fields: dict[str, str]) -> str:
        passel.revoke_token(fields.get("id", ""))
        return ""

    invitation = ""

    @router.post("/invite")
    async def invite(request: Request) -> Response:
        """The lines for another machine, with a token made for them: always the same one, for as long as it is good."""
        nonlocal invitation
        check_operator(desk, request)
        lines = passel.view().join_lines
        if not lines:
            return answer({"success": False, "error": "This server listens on this machine only"})
        try:
            if not invitation or not passel.renew_invitation(invitation, INVITED_DAYS * _DAY_S):
                invitation = passel.create_token("join", "web page", INVITED_DAYS * _DAY_S)
        except PasselError as e:
            return answer({"success": False, "error": str(e)})
        lines = tuple(line.replace("TOKEN", invitation) for line in lines)
        return answer({"success": True, "lines": lines, "qr": qr_svg(lines[0]), "days": INVITED_DAYS})

    order("/workers/drain", drain)
    order("/workers/revoke", shut_out)
    order("/tokens/create", create)
    order("/tokens/revoke", revoke)


def check_operator(desk: Desk, request: Request) -> None:
    """Raises UsageError unless the operator asks: the one owner without a name."""
    owner = desk.owner(request)
    if owner:
        todo = "on the coordinator: passel token create --api, without a name"
        raise UsageError("this token does not look after the passel", owner, todo)


def _lifetime_s(days: str) -> float | None:
    """How long a token is good, None for ever. Raises UsageError."""
    if not days:
        return None
    try:
        count = float(days)
    except ValueError:
        count = math.nan
    if not count > 0:
        raise UsageError(
            "the days must be a number above 0", days[:40], "leave them empty for a token that never expires"
        )
    return min(max(count * _DAY_S, 60.0), 10 * _YEAR_S)


def qr_svg(text: str) -> str:
    """An SVG element that is as large as its place on the page."""
    held = io.BytesIO()
    segno.make(text, error="m").save(
        held, kind="svg", xmldecl=False, svgns=True, omitsize=True, border=2, dark="#14202b", light="#ffffff"
    )
    return held.getvalue().decode()
