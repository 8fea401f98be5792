"""Hetzner Cloud's servers, through hcloud."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hcloud
from hcloud.images import Image
from hcloud.locations import Location
from hcloud.server_types import ServerType

from passel.fleet.config import HetznerAccount
from passel.fleet.machine import FLEET_TAG, Listing, MachineSeen, Order, Power, Price, ProviderError
from passel.fleet.providers.answers import Answer, problem

_POWER = {
    "initializing": Power.STARTING,
    "starting": Power.STARTING,
    "running": Power.ON,
    "rebuilding": Power.ON,
    "migrating": Power.ON,
    "deleting": Power.LEAVING,
}
_TIMEOUT_S = 30.0


class HetznerProvider:
    """Names are unique in a project, so the same order twice is noticed there."""

    name = "hetzner"

    def __init__(self, account: HetznerAccount) -> None:
        self._account = account
        self._client = hcloud.Client(account.token.value, api_endpoint=account.endpoint, timeout=_TIMEOUT_S)

    def create(self, order: Order) -> str:
        """See `Provider`."""
        image = self._account.image
        try:
            made = self._client.servers.create(
                name=order.name,
                server_type=ServerType(name=order.size),
                image=Image(id=int(image)) if image.isdigit() else Image(name=image),
                ssh_keys=self._ssh_keys(),
                user_data=order.boot_script,
                location=Location(name=order.region),
                labels={FLEET_TAG: "machine", "passel-fleet": order.fleet},
            )
            return str(made.server.id)
        except hcloud.APIException as error:
            if error.code == "uniqueness_error":
                return self._id_of(order.name, error)
            raise _problem("create a machine", error) from error
        except OSError as error:
            raise _problem("create a machine", error) from error

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """All locations answer at once."""
        selector = f"passel-fleet={fleet}" if fleet else FLEET_TAG
        try:
            servers = self._client.servers.get_all(label_selector=selector)
        except (hcloud.APIException, OSError) as error:
            raise _problem("list machines", error) from error
        return Listing(tuple(_seen(server) for server in servers))

    def destroy(self, machine_id: str, region: str) -> None:
        """See `Provider`. Addresses made with the server go with it."""
        try:
            self._client.servers.delete(hcloud.servers.Server(id=int(machine_id)))
        except hcloud.APIException as error:
            if error.code != "not_found":
                raise _problem("destroy a machine", error) from error
        except OSError as error:
            raise _problem("destroy a machine", error) from error

    def price(self, size: str, region: str) -> Price | None:
        """From the list of server types, with tax; the IPv4 address is not in it."""
        try:
            offer = self._client.server_types.get_by_name(size)
        except (hcloud.APIException, OSError) as error:
            raise _problem("tell prices", error) from error
        for line in (offer.prices or []) if offer else []:
            if line["location"] == region:
                return Price(float(line["price_hourly"]["gross"]), "EUR", "Hetzner's list of server types")
        return None

    def _ssh_keys(self) -> Any:
        fingerprint = self._account.ssh_fingerprint
        key = self._client.ssh_keys.get_by_fingerprint(fingerprint) if fingerprint else None
        return [key] if key else None

    def _id_of(self, name: str, error: hcloud.APIException) -> str:
        """The machine that an earlier, unanswered order made."""
        try:
            server = self._client.servers.get_by_name(name)
        except (hcloud.APIException, OSError) as later:
            raise _problem("create a machine", later) from later
        if server is None:
            raise _problem("create a machine", error) from error
        return str(server.id)


def _seen(server: Any) -> MachineSeen:
    address = server.public_net.ipv4.ip if server.public_net and server.public_net.ipv4 else ""
    return MachineSeen(
        id=str(server.id),
        name=server.name,
        size=server.server_type.name,
        region=server.location.name,
        power=_POWER.get(server.status, Power.OFF),
        created_s=server.created.timestamp(),
        address=address or "",
    )


def _problem(doing: str, error: hcloud.APIException | OSError) -> ProviderError:
    if not isinstance(error, hcloud.APIException):
        return problem(Answer("Hetzner", doing, None, message=type(error).__name__))
    code = str(error.code)
    status = int(code) if code.isdigit() else _STATUS.get(code, 422)
    return problem(Answer("Hetzner", doing, status, code=code, message=str(error.message)))


_STATUS = {
    "unauthorized": 401,
    "forbidden": 403,
    "rate_limit_exceeded": 429,
    "bad_gateway": 502,
    "service_error": 500,
    "server_error": 500,
    "unknown_error": 500,
    "timeout": 504,
    "conflict": 503,
    "locked": 503,
}
"""The SDK hides HTTP's status behind Hetzner's own words."""
