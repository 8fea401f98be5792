"""DigitalOcean's droplets, through pydo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pydo
from azure.core.exceptions import AzureError, HttpResponseError

from passel.fleet.config import DigitalOceanAccount
from passel.fleet.machine import FLEET_TAG, Listing, MachineSeen, Order, Power, Price, ProviderError, fleet_tag
from passel.fleet.providers.answers import Answer, problem, spoken

_PAGE = 100
_POWER = {"new": Power.STARTING, "active": Power.ON}


class DigitalOceanProvider:
    """Names are not unique there; the fleet's tag and the name together find a machine again."""

    name = "digitalocean"

    def __init__(self, account: DigitalOceanAccount) -> None:
        self._account = account
        self._client = pydo.Client(
            account.token.value, endpoint=account.endpoint, retry_total=0, connection_timeout=10, read_timeout=60
        )
        # azure-core refuses to send a token over http; only a test's server on this machine is asked that way.
        self._options = {"enforce_https": account.endpoint.startswith("https")}

    def create(self, order: Order) -> str:
        """See `Provider`."""
        account = self._account
        body = {
            "name": order.name,
            "region": order.region,
            "size": order.size,
            "image": int(account.image) if account.image.isdigit() else account.image,
            "ssh_keys": [account.ssh_fingerprint] if account.ssh_fingerprint else [],
            "user_data": order.boot_script,
            "monitoring": account.monitoring,
            "tags": [FLEET_TAG, fleet_tag(order.fleet), *account.tags],
        }
        try:
            made = self._client.droplets.create(body=body, **self._options)
            return str(made["droplet"]["id"])
        except AzureError as error:
            raise _problem("create a machine", error) from error

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """All regions answer at once; what their servers list twice is listed once by the census."""
        tag = fleet_tag(fleet) if fleet else FLEET_TAG
        machines: list[MachineSeen] = []
        page = 1
        try:
            while True:
                answer = self._client.droplets.list(tag_name=tag, per_page=_PAGE, page=page, **self._options)
                machines += [_seen(droplet) for droplet in answer["droplets"]]
                if not answer.get("links", {}).get("pages", {}).get("next"):
                    return Listing(tuple(machines))
                page += 1
        except AzureError as error:
            raise _problem("list machines", error) from error

    def destroy(self, machine_id: str, region: str) -> None:
        """See `Provider`."""
        try:
            self._client.droplets.destroy(droplet_id=int(machine_id), **self._options)
        except AzureError as error:
            if not (isinstance(error, HttpResponseError) and error.status_code == 404):
                raise _problem("destroy a machine", error) from error

    def price(self, size: str, region: str) -> Price | None:
        """From the list of sizes."""
        page = 1
        try:
            while True:
                answer = self._client.sizes.list(per_page=_PAGE, page=page, **self._options)
                for offer in answer["sizes"]:
                    if offer["slug"] == size:
                        return Price(float(offer["price_hourly"]), "USD", "DigitalOcean's list of sizes")
                if not answer.get("links", {}).get("pages", {}).get("next"):
                    return None
                page += 1
        except AzureError as error:
            raise _problem("tell prices", error) from error


def _seen(droplet: Mapping[str, Any]) -> MachineSeen:
    addresses = droplet.get("networks", {}).get("v4", [])
    public = [a["ip_address"] for a in addresses if a.get("type") == "public"]
    return MachineSeen(
        id=str(droplet["id"]),
        name=droplet["name"],
        size=droplet.get("size_slug", ""),
        region=droplet["region"]["slug"],
        power=_POWER.get(droplet["status"], Power.OFF),
        created_s=datetime.fromisoformat(droplet["created_at"]).timestamp(),
        address=public[0] if public else "",
    )


def _problem(doing: str, error: AzureError) -> ProviderError:
    response: Any = error.response if isinstance(error, HttpResponseError) else None
    if response is None:
        return problem(Answer("DigitalOcean", doing, None, message=type(error).__name__))
    return problem(spoken("DigitalOcean", doing, response, code_field="id"))
