"""A small NodeODM for tests: node.py FOLDER PORT SETTINGS-JSON. Like NodeODM it keeps tasks in memory, so a kill -9 makes it
forget them, and it keeps a photo that it is sent twice as a second one. FOLDER/journal.jsonl tells for ever what it ran.

Settings: seconds (a task takes), slots, max_images, memory, token, fail (error of every task), keep (a file: while it is
there, tasks do not end), lie (html, json, lines, huge, drip) and lie_at (info, task, zip), drop (the n-th upload is
answered by hanging up after it was stored), doubt (0 = normal; commit is done but not answered), busy (so many uploads are
answered with 429 first), full (its disk: init, upload or task says so), poisoned (it dies when a task begins).
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from aiohttp import web

FULL = "ENOSPC: no space left on device, write"


class Task:
    def __init__(self, uuid: str, fields: dict[str, str]) -> None:
        self.uuid, self.fields, self.code, self.error = uuid, fields, 10, ""
        self.created_ms, self.output = int(time.time() * 1000), [f"task {uuid}"]
        self.digests: dict[str, str] = {}
        self.archive = b""
        self.runner: asyncio.Task[None] | None = None


class FakeNode:
    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.uploads: dict[str, dict[str, str]] = {}
        self.tasks: dict[str, Task] = {}
        self.slots = asyncio.Semaphore(settings.get("slots", 1))
        self.count = 0
        for old in folder.glob("task-*"):
            shutil.rmtree(old)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 30, middlewares=[self.gate])
        app.add_routes(
            [
                web.get("/info", self.info),
                web.post("/task/new/init", self.init),
                web.post("/task/new/upload/{uuid}", self.upload),
                web.post("/task/new/commit/{uuid}", self.commit),
                web.get("/task/list", self.list),
                web.get("/task/{uuid}/info", self.task),
                web.get("/task/{uuid}/download/all.zip", self.download),
                web.post("/task/{action}", self.act),
            ]
        )
        return app

    def journal(self, **row: object) -> None:
        with (self.folder / "journal.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    @web.middleware
    async def gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if request.query.get("token", "") != self.settings.get("token", ""):
            return web.json_response({"error": "Invalid authentication token: token does not match."})
        lie, at = self.settings.get("lie", ""), self.settings.get("lie_at", "info")
        asked = "info" if request.path == "/info" else "task" if request.path.startswith("/task/") else ""
        asked = "zip" if request.path.endswith("all.zip") else asked
        if not lie or asked != at or request.method != "GET":
            return await handler(request)
        if lie == "html":
            return web.Response(text="<html>It works!</html>", content_type="text/html")
        if lie == "json":
            return web.json_response({"version": 3, "taskQueueCount": "many", "status": [1]})
        if lie == "lines":
            output = ["a line of output"] * 200_000
            return web.json_response({"status": {"code": 20}, "imagesCount": 3, "output": output})
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * (1 << 20 if lie == "huge" else 1))
            await asyncio.sleep(0 if lie == "huge" else 0.2)

    async def info(self, _: web.Request) -> web.Response:
        busy = sum(t.code in {10, 20} for t in self.tasks.values())
        said = {"version": "2.2.4", "taskQueueCount": busy, "totalMemory": self.settings.get("memory", 8 << 30)}
        said |= {"availableMemory": 1 << 30, "cpuCores": 4, "maxImages": self.settings.get("max_images")}
        said |= {"maxParallelTasks": self.settings.get("slots", 1), "engineVersion": "3.5.6", "engine": "odm"}
        return web.json_response(said)

    async def init(self, request: web.Request) -> web.Response:
        fields = dict(await request.post())
        uuid = request.headers["set-uuid"]
        if uuid in self.tasks:
            return web.json_response({"error": f"Invalid set-uuid: {uuid}"})
        if self.settings.get("full") == "init":
            return web.json_response({"error": FULL})
        self.uploads[uuid] = {k: str(v) for k, v in fields.items()}
        (self.folder / f"task-{uuid}").mkdir(exist_ok=True)
        return web.json_response({"uuid": uuid})

    async def upload(self, request: web.Request) -> web.StreamResponse:
        uuid = request.match_info["uuid"]
        if uuid not in self.uploads:
            return web.json_response({"error": "Invalid uuid (not found)"})
        if self.settings.get("busy", 0) > 0:
            self.settings["busy"] -= 1
            self.journal(event="busy", at_s=time.time())
            return web.Response(status=429, headers={"Retry-After": "1"}, text="slow down")
        if self.settings.get("full") == "upload":
            return web.json_response({"error": FULL})
        async for part in await request.multipart():
            name = part.filename
            while (path := self.folder / f"task-{uuid}" / name).exists():
                name = f"{Path(name).stem}_{Path(name).suffix}"
            path.write_bytes(await part.read())
            await asyncio.sleep(self.settings.get("upload_seconds", 0))
        self.count += 1
        if self.count == self.settings.get("drop"):
            request.transport.close()
        return web.json_response({"success": True})

    async def commit(self, request: web.Request) -> web.Response:
        uuid = request.match_info["uuid"]
        if uuid not in self.uploads:
            return web.json_response({"error": "Invalid uuid (not found)"})
        task = self.tasks[uuid] = Task(uuid, self.uploads.pop(uuid))
        folder = self.folder / f"task-{uuid}"
        task.digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
        task.runner = asyncio.create_task(self.run(task))
        if self.settings.get("doubt"):
            request.transport.close()
        return web.json_response({"uuid": uuid})

    async def run(self, task: Task) -> None:
        async with self.slots:
            task.code = 20
            self.journal(event="began", uuid=task.uuid, digests=task.digests)
            if self.settings.get("poisoned"):
                os.kill(os.getpid(), signal.SIGKILL)
            task.output += ["line two", "line three"]
            await asyncio.sleep(self.settings.get("seconds", 0))
            while self.settings.get("keep") and Path(self.settings["keep"]).exists():
                await asyncio.sleep(0.05)
            task.output.append("the end")
            task.error = FULL if self.settings.get("full") == "task" else self.settings.get("fail", "")
            task.archive = b"" if task.error else self.results(task)
            self.journal(event="failed" if task.error else "completed", uuid=task.uuid, digests=task.digests)
            task.code = 30 if task.error else 40

    def results(self, task: Task) -> bytes:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as zipped:
            zipped.writestr("odm_orthophoto/odm_orthophoto.tif", b"II*\0" + json.dumps(task.digests).encode())
            zipped.writestr("images.json", json.dumps([{"filename": n} for n in task.digests]))
            zipped.writestr("odm_report/fields.json", json.dumps(task.fields))
            seed = self.folder / f"task-{task.uuid}" / "seed.zip"
            seeds = zipfile.ZipFile(seed).namelist() if seed.exists() else []
            zipped.writestr("odm_report/seed.json", json.dumps(seeds))
            for output in json.loads(task.fields.get("outputs") or "[]"):
                zipped.writestr(f"{output}/empty", b"")
        return packed.getvalue()

    def find(self, request: web.Request) -> Task | None:
        return self.tasks.get(request.match_info["uuid"])

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response([{"uuid": u} for u in self.tasks])

    async def task(self, request: web.Request) -> web.Response:
        task = self.find(request)
        if task is None:
            return web.json_response({"error": f"{request.match_info['uuid']} not found"})
        said = {
            "uuid": task.uuid,
            "dateCreated": task.created_ms,
            "processingTime": 1000 * self.settings.get("told_seconds", 1),
            "options": [],
        }
        said |= {"status": {"code": task.code, **({"errorMessage": task.error} if task.error else {})}}
        photos = sum(1 for n in task.digests if not n.endswith((".txt", ".zip")))
        said |= {"imagesCount": photos, "progress": 100 if task.code == 40 else 40}
        if "with_output" in request.query:
            said["output"] = task.output[int(request.query["with_output"]) :]
        return web.json_response(said)

    async def download(self, request: web.Request) -> web.Response:
        task = self.find(request)
        if task is None or task.code != 40:
            return web.json_response({"error": "Asset not ready"})
        return web.Response(body=task.archive, content_type="application/zip")

    async def act(self, request: web.Request) -> web.Response:
        fields, action = await request.post(), request.match_info["action"]
        task = self.tasks.get(str(fields["uuid"]))
        if task is None:
            return web.json_response({"success": False, "error": f"{fields['uuid']} not found"})
        if task.runner is not None:
            task.runner.cancel()
        task.code = 50
        if action == "remove":
            del self.tasks[task.uuid]
            shutil.rmtree(self.folder / f"task-{task.uuid}", ignore_errors=True)
        self.journal(event=action, uuid=task.uuid)
        return web.json_response({"success": True})


def main() -> None:
    folder, port, settings = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)

    async def application() -> web.Application:
        return FakeNode(folder, settings).application()

    web.run_app(application(), host="127.0.0.1", port=port, print=None, access_log=None)


if __name__ == "__main__":
    main()
