"""The whole story in real processes: a job arrives, three machines appear, coordinator and a machine are killed, the map is
made, nothing is left. Minutes of CPU time: `make test-long`."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import psutil
import pytest

from passel.demo.truth import DemoTruth
from passel.fleet.ledger import Ledger, State
from passel.fleet.start import ledger_path
from serving import LONGEST_S, Running, serve_words, until

pytestmark = pytest.mark.long

FILE = """
provider = "local"
url = "http://127.0.0.1:{port}"
workers_url = "https://127.0.0.1:{workers_port}"
limit = 3
photos_per_machine = 5
idle_timeout = 10
"""


def machine_processes(data: Path) -> list[psutil.Process]:
    """Every process of the fleet's machines."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("PASSEL_MACHINE_HOME", "")
            if home.startswith(str(data)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_job_makes_machines_and_a_map_and_leaves_nothing(tmp_path: Path, tiny_survey: tuple[Path, DemoTruth]) -> None:
    data, file = tmp_path / "data", tmp_path / "fleet.toml"
    words, port, workers_port = serve_words(data, "--no-worker", "--fleet", str(file))
    file.write_text(FILE.format(port=port, workers_port=workers_port))
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
    coordinator = Running(words, tmp_path / "serve.log")
    try:
        until(lambda: answers(client), "it serves")
        uuid = submit(client, tiny_survey[0])
        ledger = Ledger(ledger_path(data))
        until(lambda: progress(client, uuid) > 8, "it works", 10 * LONGEST_S)
        assert sum(m.state is State.UP for m in ledger.machines()) == 3
        coordinator.kill()
        coordinator = Running(words, tmp_path / "serve-2.log")
        until(lambda: answers(client), "it serves again")
        until(lambda: progress(client, uuid) > 30, "it goes on", 10 * LONGEST_S)
        machine_processes(data)[-1].kill()
        until(lambda: status(client, uuid) not in {10, 20}, "it ends", 10 * LONGEST_S)
        assert status(client, uuid) == 40
        assert client.get(f"/task/{uuid}/download/all.zip").status_code == 200
        until(lambda: not any(m.alive for m in ledger.machines()), "the fleet is empty")
        assert len(ledger.machines()) <= 4, "the kills made no herd of machines"
        ledger.close()
        until(lambda: not machine_processes(data), "no process is left")
    finally:
        coordinator.kill()
        client.close()
        for process in machine_processes(data):
            process.kill()


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/info").status_code == 200
    except httpx.HTTPError:
        return False


def submit(client: httpx.Client, photos: Path) -> str:
    options = json.dumps([{"name": "fast-orthophoto", "value": True}, {"name": "feature-quality", "value": "lowest"}])
    uuid = str(client.post("/task/new/init", data={"options": options}).json()["uuid"])
    for photo in sorted(photos.iterdir()):
        client.post(f"/task/new/upload/{uuid}", files={"images": (photo.name, photo.read_bytes())}).raise_for_status()
    client.post(f"/task/new/commit/{uuid}").raise_for_status()
    return uuid


def progress(client: httpx.Client, uuid: str) -> float:
    return float(client.get(f"/task/{uuid}/info").json()["progress"])


def status(client: httpx.Client, uuid: str) -> int:
    return int(client.get(f"/task/{uuid}/info").json()["status"]["code"])
