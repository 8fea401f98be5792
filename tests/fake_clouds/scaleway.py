"""Scaleway's Instance and Block APIs, as far as servers, their boot scripts and their disks go."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from fake_clouds.server import FakeCloud, FakeMachine, Reply, Request


@dataclass
class Disk:
    id: str
    name: str
    zone: str
    made: str
    server: str


class FakeScaleway(FakeCloud):
    """Servers are made switched off; disks outlive them."""

    secret = "7f6c1d7e-4a55-4f5e-9d0a-0123456789ab"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disks: dict[str, Disk] = {}
        self._dead: set[str] = set()

    def new_id(self, number: str) -> str:
        return str(uuid.UUID(int=int(number)))

    def reply(self, request: Request) -> Reply:
        if request.headers.get("x-auth-token") != self.secret:
            return Reply(403, {"type": "denied_authentication", "message": "authentication is denied"})
        words = request.path.strip("/").split("/")
        zone, rest = words[3], words[4:]
        if words[0] == "block":
            return self._block(request, zone, rest)
        if rest == ["products", "servers"]:
            return Reply(200, {"servers": {"DEV1-XL": {"hourly_price": 0.0638, "ncpus": 4, "arch": "x86_64"}}})
        if rest[0] == "volumes":
            return Reply(200, {"volumes": []})
        if rest == ["servers"]:
            return self._create(request, zone) if request.method == "POST" else self._list(request, zone)
        machine = self.machines.get(rest[1])
        if machine is None or machine.region != zone:
            return Reply(404, {"type": "unknown_resource", "message": "resource is not found"})
        return self._one(request, machine, rest[2:])

    def _create(self, request: Request, zone: str) -> Reply:
        wish = request.json
        fault = self.fault("create")
        if fault == "429":
            return Reply(429, {"type": "too_many_requests", "message": "slow down"}, {"retry-after": "3"})
        if fault == "no capacity":
            return Reply(412, {"type": "out_of_stock", "message": "resource is out of stock"})
        if fault == "quota":
            return Reply(403, {"type": "quotas_exceeded", "message": "quota(s) exceeded"})
        if fault == "500 before":
            return Reply(500, {"type": "internal", "message": "internal error"})
        machine = self.add(str(wish["name"]), str(wish["commercial_type"]), zone, list(wish["tags"]), "", boot=False)
        machine.off = True
        disk_id = str(uuid.uuid4())
        self.disks[disk_id] = Disk(disk_id, str(wish["volumes"]["0"]["name"]), zone, machine.created, machine.id)
        if fault == "dead":
            self._dead.add(machine.id)
        if fault == "500 after":
            return Reply(500, {"type": "internal", "message": "internal error"})
        return Reply(201, {"server": self._shape(machine)})

    def _list(self, request: Request, zone: str) -> Reply:
        if self.faults["list"] and self.faults["list"][0] != "twice":
            return {
                "500": Reply(500, {"type": "internal", "message": "internal error"}),
                "html": Reply(502, b"<html>Bad gateway</html>"),
                "429": Reply(429, {"type": "too_many_requests", "message": "slow down"}),
            }[self.fault("list")]
        tag = request.query.get("tags", "")
        ours = [m for m in self.machines.values() if m.region == zone and tag in m.tags]
        number, size = int(request.query.get("page", 1)), int(request.query.get("per_page", 50))
        page, _ = self.page(ours, number, size)
        return Reply(200, {"servers": [self._shape(m) for m in page]}, {"x-total-count": str(len(ours))})

    def _one(self, request: Request, machine: FakeMachine, rest: list[str]) -> Reply:
        if request.method == "PATCH" and rest == ["user_data", "cloud-init"]:
            machine.script = request.body.decode()
            return Reply(204)
        if request.method == "POST" and rest == ["action"]:
            return self._act(machine, str(request.json["action"]))
        if request.method == "DELETE":
            return self._gone(machine) if not machine.running else Reply(
                400, {"type": "invalid_request_error", "message": "instance should be powered off"}
            )  # fmt: skip
        return Reply(200, {"server": self._shape(machine)})

    def _act(self, machine: FakeMachine, action: str) -> Reply:
        if action == "poweron":
            machine.off = False
            if self.boots and machine.id not in self._dead:
                machine.boot(self.stand_ins)
        elif machine.running:
            gone = self._gone(machine)
            if gone.status != 204:
                return gone
        else:
            return Reply(400, {"type": "invalid_request_error", "message": "server should be running"})
        return Reply(202, {"task": {"id": "t", "description": action, "status": "pending", "progress": 0}})

    def _gone(self, machine: FakeMachine) -> Reply:
        fault = self.fault("destroy")
        if fault != "500 before":
            self.remove(machine.id)
            for disk in self.disks.values():
                disk.server = "" if disk.server == machine.id else disk.server
        return Reply(500, {"type": "internal", "message": "internal error"}) if fault else Reply(204)

    def _block(self, request: Request, zone: str, rest: list[str]) -> Reply:
        if request.method == "DELETE":
            del self.disks[rest[1]]
            return Reply(204)
        name = request.query.get("name", "")
        found = [d for d in self.disks.values() if d.zone == zone and name in d.name]
        volumes = [
            {
                "id": d.id,
                "name": d.name,
                "type": "sbs_5k",
                "created_at": d.made,
                "references": [{"id": "r", "product_resource_id": d.server}] if d.server else [],
                "status": "in_use" if d.server else "available",
            }
            for d in found
        ]
        return Reply(200, {"volumes": volumes, "total_count": len(volumes)})

    def _shape(self, machine: FakeMachine) -> dict[str, object]:
        mine = [d for d in self.disks.values() if d.server == machine.id]
        disks = {str(n): {"id": d.id, "name": d.name} for n, d in enumerate(mine)}
        return {
            "id": machine.id,
            "name": machine.name,
            "commercial_type": machine.size,
            "state": "running" if machine.running else "stopped",
            "creation_date": machine.created,
            "tags": list(machine.tags),
            "volumes": disks,
            "public_ips": [{"id": "i", "address": "127.0.0.1"}],
            "zone": machine.region,
        }
