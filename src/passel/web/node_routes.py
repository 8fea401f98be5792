"""The admin API of NodeODM nodes: what `passel node` does, for the operator's tokens; the page of nodes uses it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from passel.errors import PasselError, UsageError
from passel.server.requests import Desk, answer
from passel.web.passel_routes import check_operator
from passel.web.ports import NewNode, Nodes, Services

_FIELDS = {
    "node": "name or address of a node",
    "url": "http://host:3000, https://host, or host:port",
    "token": "the token that the node asks for",
    "name": "a name for it; without one its address is its name",
    "pin": "SHA-256 of its TLS certificate in hex, if no known authority vouches for it",
    "max_upload_mb_s": "most megabytes a second that a task is sent with",
    "photos": "how many photos the task has",
}
Fields = dict[str, str]


def node_routes(desk: Desk, services: Services) -> APIRouter:
    """/admin/nodes. Errors are `{"success": false, "error": …}`, as everywhere."""
    router = APIRouter(prefix="/admin/nodes", tags=["Nodes (operator's token)"])
    nodes = services.nodes
    _question_routes(router, desk, nodes)
    if nodes is not None:
        _order_routes(router, desk, nodes)
    return router


def _question_routes(router: APIRouter, desk: Desk, nodes: Nodes | None) -> None:
    @router.get("", summary="All nodes: state, what is wrong with them, load, speed", openapi_extra=_query())
    async def lines(request: Request) -> Response:
        check_operator(desk, request)
        return answer({"nodes": [asdict(n) for n in nodes.lines()] if nodes else [], "none": nodes is None})

    if nodes is None:
        return

    @router.get("/info", summary="A node and its latest tasks", openapi_extra=_query("node"))
    async def info(request: Request) -> Response:
        check_operator(desk, request)
        return _told(lambda: asdict(nodes.info(request.query_params.get("node", ""))))

    @router.get("/best", summary="The node that a task would get now, and why", openapi_extra=_query("photos"))
    async def best(request: Request) -> Response:
        check_operator(desk, request)
        return _told(lambda: asdict(nodes.best(_count(request.query_params.get("photos", "")))))


def _told(question: Callable[[], dict[str, Any]]) -> Response:
    try:
        return answer(question())
    except PasselError as e:
        return answer({"success": False, "error": str(e)})


def _order_routes(router: APIRouter, desk: Desk, nodes: Nodes) -> None:
    def order(path: str, action: Callable[[Fields], Awaitable[None]], summary: str, *fields: str) -> None:
        async def handle(request: Request) -> Response:
            check_operator(desk, request)
            try:
                await action(await desk.form(request))
                return answer({"success": True, "nodes": [asdict(n) for n in nodes.lines()]})
            except PasselError as e:
                return answer({"success": False, "error": str(e)})

        extra = {**_query(), "requestBody": _body(*fields)} if fields else _query()
        router.add_api_route(path, handle, methods=["POST"], summary=summary, openapi_extra=extra)

    async def add(fields: Fields) -> None:
        url, token, name, pin = (fields.get(k, "").strip() for k in ("url", "token", "name", "pin"))
        await nodes.add(NewNode(url, token, name, pin, _megabytes(fields.get("max_upload_mb_s", ""))))

    async def delete(fields: Fields) -> None:
        nodes.delete(fields.get("node", ""))

    async def lock(fields: Fields) -> None:
        nodes.lock(fields.get("node", ""), True)

    async def unlock(fields: Fields) -> None:
        nodes.lock(fields.get("node", ""), False)

    async def update(fields: Fields) -> None:
        await nodes.update()

    adding = "Add a node and ask it how it is; the same name again changes its address and token"
    order("/add", add, adding, "url", "token", "name", "pin", "max_upload_mb_s")
    order("/delete", delete, "Take a node out; what it works on goes to other nodes", "node")
    order("/lock", lock, "Give a node no new tasks; it finishes those it has", "node")
    order("/unlock", unlock, "Give a node tasks again", "node")
    order("/update", update, "Ask all nodes now how they are, also those that are left alone for a while")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError("the number of photos must be a whole number", text[:40])
    return int(text)


def _megabytes(text: str) -> float:
    """0 = no limit. Raises UsageError."""
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise UsageError("the most megabytes a second must be a number", text[:40], "leave it empty for no limit")
    return value


def _query(*names: str) -> dict[str, Any]:
    """Parameters in the query, for the OpenAPI page."""
    token = {"token": "an operator's API token; an `Authorization: Bearer` header does as well"}
    rows = {**token, **{n: _FIELDS[n] for n in names}}
    return {
        "parameters": [
            {"in": "query", "name": n, "required": False, "description": d, "schema": {"type": "string"}}
            for n, d in rows.items()
        ]
    }


def _body(*names: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {n: {"type": "string", "description": _FIELDS[n]} for n in names}}
    kinds = ("application/x-www-form-urlencoded", "application/json", "multipart/form-data")
    return {"content": {kind: {"schema": schema} for kind in kinds}}
