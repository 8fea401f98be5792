"""DigitalOcean's API v2, as far as droplets and sizes go."""

from __future__ import annotations

from fake_clouds.server import FakeCloud, FakeMachine, Reply, Request


class FakeDigitalOcean(FakeCloud):
    def reply(self, request: Request) -> Reply:
        if request.headers.get("authorization") != f"Bearer {self.secret}":
            return Reply(401, {"id": "Unauthorized", "message": "Unable to authenticate you"})
        if request.path == "/v2/sizes":
            return Reply(200, {"sizes": [{"slug": "c-8", "price_hourly": 0.25}], "links": {}, "meta": {"total": 1}})
        if request.path == "/v2/droplets" and request.method == "POST":
            return self._create(request)
        if request.path == "/v2/droplets":
            return self._list(request)
        return self._destroy(request.path.rpartition("/")[2])

    def _create(self, request: Request) -> Reply:
        wish = request.json
        fault = self.fault("create")
        if fault == "429":
            message = "API rate limit exceeded."
            return Reply(429, {"id": "too_many_requests", "message": message}, {"retry-after": "3"})
        if fault == "no capacity":
            message = "Size is not available in this region."
            return Reply(422, {"id": "unprocessable_entity", "message": message})
        if fault == "quota":
            message = "creating this/these droplet(s) will exceed your droplet limit"
            return Reply(422, {"id": "unprocessable_entity", "message": message})
        if fault == "500 before":
            return Reply(500, {"id": "server_error", "message": "Unexpected server-side error"})
        machine = self.add(
            str(wish["name"]),
            str(wish["size"]),
            str(wish["region"]),
            list(wish["tags"]),
            str(wish["user_data"]),
            fault != "dead",
        )
        if fault == "500 after":
            return Reply(500, {"id": "server_error", "message": "Unexpected server-side error"})
        return Reply(202, {"droplet": _droplet(machine), "links": {}})

    def _list(self, request: Request) -> Reply:
        if self.faults["list"] and self.faults["list"][0] != "twice":
            return {
                "500": Reply(500, {"id": "server_error", "message": "Unexpected server-side error"}),
                "html": Reply(502, b"<html>Bad gateway</html>"),
                "429": Reply(429, {"id": "too_many_requests", "message": "API rate limit exceeded."}),
            }[self.fault("list")]
        ours = [m for m in self.machines.values() if request.query["tag_name"] in m.tags]
        number = int(request.query.get("page", 1))
        page, more = self.page(ours, number, int(request.query.get("per_page", 20)))
        links = {"pages": {"next": f"{self.url}/v2/droplets?page={number + 1}"}} if more else {}
        return Reply(200, {"droplets": [_droplet(m) for m in page], "links": links, "meta": {"total": len(ours)}})

    def _destroy(self, machine_id: str) -> Reply:
        fault = self.fault("destroy")
        if fault == "500 before":
            return Reply(500, {"id": "server_error", "message": "Unexpected server-side error"})
        if not self.remove(machine_id):
            return Reply(404, {"id": "not_found", "message": "The resource you requested could not be found."})
        return Reply(500, {"id": "server_error", "message": ""}) if fault == "500 after" else Reply(204)


def _droplet(machine: FakeMachine) -> dict[str, object]:
    return {
        "id": int(machine.id),
        "name": machine.name,
        "status": "active" if machine.running else "off",
        "created_at": machine.created,
        "size_slug": machine.size,
        "region": {"slug": machine.region, "name": machine.region},
        "tags": list(machine.tags),
        "networks": {
            "v4": [{"ip_address": "127.0.0.1", "type": "public"}, {"ip_address": "10.0.0.2", "type": "private"}]
        },
    }
