"""Descriptions of requests for the OpenAPI page. Bodies are read as streams by our own reader, so FastAPI cannot derive
them.
"""

from __future__ import annotations

from typing import Any

_QUERY = {
    "token": "API token; an `Authorization: Bearer` header does as well",
    "with_output": "include the console from this line on; negative: the last lines",
    "line": "first line; negative: the last lines",
}
_FIELDS = {
    "name": "title of the task",
    "options": "JSON list of {name, value}, see /options",
    "skipPostProcessing": "`true`: do not add pc-ept, cog and gltf to the options",
    "webhook": "URL that is sent the task's info when it ends",
    "outputs": "JSON list of paths below the project that all.zip shall hold instead of the usual ones",
    "dateCreated": "ms since the epoch, shown as the task's date",
    "zipurl": "URL of a ZIP file with photos, fetched by the server",
    "urls": "JSON list of URLs of photos, fetched by the server",
    "priority": "-100 … 100; higher goes first among the tasks of this token",
    "uuid": "the task",
}
ORDER_FIELDS = (
    *("name", "options", "skipPostProcessing", "webhook", "outputs", "dateCreated", "zipurl", "urls", "priority"),
)


def query(*names: str) -> dict[str, Any]:
    """Parameters in the query."""
    return {"parameters": [_parameter("query", n, _QUERY[n]) for n in names]}


def form(*names: str, uuid_header: bool = False) -> dict[str, Any]:
    """A form with these fields; `images` are files."""
    fields: dict[str, Any] = {n: {"type": "string", "description": _FIELDS[n]} for n in names if n != "images"}
    if "images" in names:
        fields["images"] = {"type": "array", "items": {"type": "string", "format": "binary"}}
    kinds = ["multipart/form-data"]
    if "images" not in names:
        kinds += ["application/x-www-form-urlencoded", "application/json"]
    parameters = [_parameter("query", "token", _QUERY["token"])]
    if uuid_header:
        parameters.append(_parameter("header", "set-uuid", "uuid that the task shall have"))
    schema = {"schema": {"type": "object", "properties": fields}}
    return {"parameters": parameters, "requestBody": {"content": {kind: schema for kind in kinds}}}


def piece() -> dict[str, Any]:
    """A piece of a file as the body."""
    parameters = [
        _parameter("query", "token", _QUERY["token"]),
        _parameter("header", "content-range", "bytes FIRST-LAST/TOTAL; without it the body is the whole file"),
    ]
    body = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    return {"parameters": parameters, "requestBody": {"content": body}}


def _parameter(place: str, name: str, description: str) -> dict[str, Any]:
    return {"in": place, "name": name, "required": False, "description": description, "schema": {"type": "string"}}
