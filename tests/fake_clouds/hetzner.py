"""Hetzner Cloud's API v1, as far as servers and server types go."""

from __future__ import annotations

from fake_clouds.server import FakeCloud, FakeMachine, Reply, Request

_TYPE = {
    "id": 1,
    "name": "cpx41",
    "prices": [{"location": "fsn1", "price_hourly": {"net": "0.0400000000", "gross": "0.0476000000"}}],
}


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status, {"error": {"code": code, "message": message, "details": {}}})


class FakeHetzner(FakeCloud):
    def reply(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.secret}":
            return _error(401, "unauthorized", "unable to authenticate")
        if request.path == "/server_types":
            return Reply(200, {"server_types": [_TYPE], "meta": {"pagination": _pages(1, 1, False)}})
        if request.path == "/servers" and request.method == "POST":
            return self._create(request)
        if request.path == "/servers":
            return self._list(request)
        return self._destroy(request.path.rpartition("/")[2])

    def _create(self, request: Request) -> Reply:
        wish = request.json
        fault = self.fault("create")
        if fault == "429":
            return _error(429, "too_many_requests", "slow down")
        if fault == "no capacity":
            return _error(412, "resource_unavailable", "error during placement")
        if fault == "quota":
            return _error(403, "resource_limit_exceeded", "server limit exceeded")
        if fault == "500 before":
            return _error(500, "service_error", "internal error")
        if any(m.name == wish["name"] for m in self.machines.values()):
            return _error(409, "uniqueness_error", "server name is already used")
        tags = [f"{key}={value}" for key, value in wish["labels"].items()] + list(wish["labels"])
        machine = self.add(
            str(wish["name"]),
            str(wish["server_type"]),
            str(wish["location"]),
            tags,
            str(wish["user_data"]),
            fault != "dead",
        )
        if fault == "500 after":
            return _error(500, "service_error", "internal error")
        action = {"id": 1, "command": "create_server", "status": "running", "progress": 0, "error": None}
        return Reply(
            201, {"server": _server(machine), "action": action, "next_actions": [], "root_password": "a-root-password"}
        )

    def _list(self, request: Request) -> Reply:
        if self.faults["list"] and self.faults["list"][0] != "twice":
            return {
                "500": _error(500, "service_error", "internal error"),
                "html": Reply(500, b"<html>Bad gateway</html>"),
                "429": _error(429, "too_many_requests", "slow down"),
            }[self.fault("list")]
        selector, name = request.query.get("label_selector"), request.query.get("name")
        ours = [
            m for m in self.machines.values() if (selector is None or selector in m.tags) and name in {None, m.name}
        ]
        number = int(request.query.get("page", 1))
        page, more = self.page(ours, number, int(request.query.get("per_page", 25)))
        pages = _pages(number, len(ours), more)
        return Reply(200, {"servers": [_server(m) for m in page], "meta": {"pagination": pages}})

    def _destroy(self, machine_id: str) -> Reply:
        fault = self.fault("destroy")
        if fault == "500 before":
            return _error(500, "service_error", "internal error")
        if not self.remove(machine_id):
            return _error(404, "not_found", "server not found")
        if fault == "500 after":
            return _error(500, "service_error", "internal error")
        return Reply(200, {"action": {"id": 2, "command": "delete_server", "status": "running", "progress": 0}})


def _pages(number: int, total: int, more: bool) -> dict[str, object]:
    return {
        "page": number,
        "per_page": 25,
        "previous_page": None,
        "next_page": number + 1 if more else None,
        "last_page": number,
        "total_entries": total,
    }


def _server(machine: FakeMachine) -> dict[str, object]:
    return {
        "id": int(machine.id),
        "name": machine.name,
        "status": "running" if machine.running else "off",
        "created": machine.created,
        "server_type": _TYPE | {"name": machine.size},
        "location": {"id": 1, "name": machine.region},
        "public_net": {
            "ipv4": {"id": 1, "ip": "127.0.0.1", "blocked": False, "dns_ptr": ""},
            "ipv6": {"id": 2, "ip": "2001:db8::/64", "blocked": False, "dns_ptr": []},
            "floating_ips": [],
            "firewalls": [],
        },
        "labels": {},
    }
