"""Scaleway's Instances, through its SDK. A machine is made in three calls; one that stays half made is destroyed.

Disks there outlive their machine. So each disk bears its machine's name, and every listing removes those whose machine
is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import scaleway
from scaleway.block.v1 import BlockV1API
from scaleway.instance.v1.custom_api import InstanceUtilsV1API
from scaleway.instance.v1.types import VolumeServerTemplate
from scaleway_core.api import ScalewayException

from passel.fleet.census import machine_name
from passel.fleet.config import ScalewayAccount
from passel.fleet.machine import FLEET_TAG, Listing, MachineSeen, Order, Power, Price, ProviderError, fleet_tag
from passel.fleet.providers.answers import Answer, problem, spoken

_log = logging.getLogger("passel.fleet")
_POWER = {"starting": Power.STARTING, "running": Power.ON, "locked": Power.OFF}
_ON = {"running", "starting"}
_DISK_GB = 40
_PAGE = 50
_LOOSE_S = 600.0
"""A disk without a machine that is older than this is removed: younger ones may just be between two calls."""
_ERRORS = (ScalewayException, OSError, ValueError)
"""ValueError: the SDK parses an error's body as JSON, whatever a proxy on the way has put there."""


class ScalewayProvider:
    """Regions are Scaleway's zones, like fr-par-1."""

    name = "scaleway"

    def __init__(self, account: ScalewayAccount) -> None:
        self._account = account
        client = scaleway.Client(
            secret_key=account.secret_token.value,
            api_url=account.endpoint,
            default_project_id=account.project or None,
            default_organization_id=account.organization or None,
        )
        # ClusterODM's files have no access key, and the API needs none; the SDK's check would ask for it.
        self._instances: Any = InstanceUtilsV1API(client, bypass_validation=True)
        self._blocks: Any = BlockV1API(client, bypass_validation=True)

    def create(self, order: Order) -> str:
        """Made, told its boot script, switched on. When it dies in between, the next listing shows a machine that is off."""
        account = self._account
        owner = {"project": account.project} if account.project else {"organization": account.organization}
        disk = VolumeServerTemplate(
            volume_type=account.volume_type,
            name=order.name,
            size=(order.storage_gb or _DISK_GB) * 10**9,
            boot=True,
            **owner,
        )
        try:
            made = self._instances._create_server(  # the SDK's public name asks again and again
                zone=order.region,
                commercial_type=order.size,
                name=order.name,
                image=account.image,
                dynamic_ip_required=True,
                protected=False,
                volumes={"0": disk},
                tags=[FLEET_TAG, fleet_tag(order.fleet)],
                **owner,
            )
            script = order.boot_script.encode()
            self._instances.set_server_user_data(made.server.id, "cloud-init", script, zone=order.region)
            self._instances.server_action(server_id=made.server.id, zone=order.region, action="poweron")
        except _ERRORS as error:
            raise _problem("create a machine", error) from error
        return str(made.server.id)

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """Each zone is asked; one that does not answer hides nothing of the others."""
        machines: list[MachineSeen] = []
        silent: dict[str, ProviderError] = {}
        for zone in regions:
            try:
                servers = self._servers(fleet_tag(fleet) if fleet else FLEET_TAG, zone)
                machines += [_seen(server, zone) for server in servers]
            except _ERRORS as error:
                silent[zone] = _problem(f"list machines in {zone}", error)
                continue
            try:
                if fleet:
                    self._remove_loose_disks(machine_name(fleet, ""), zone)
            except _ERRORS as error:  # the listing holds all the same
                _log.warning("%s; look at volumes in the console", _problem(f"remove old disks in {zone}", error).what)
        if silent and len(silent) == len(regions):
            raise next(iter(silent.values()))
        return Listing(tuple(machines), frozenset(silent))

    def destroy(self, machine_id: str, region: str) -> None:
        """A running machine is terminated, one that is off is deleted; disks follow with a later listing."""
        try:
            server = self._instances.get_server(server_id=machine_id, zone=region).server
            if server.state in _ON:
                self._instances.server_action(server_id=machine_id, zone=region, action="terminate")
            else:
                self._instances.delete_server(server_id=machine_id, zone=region)
        except _ERRORS as error:
            if getattr(error, "status_code", None) != 404:
                raise _problem("destroy a machine", error) from error

    def price(self, size: str, region: str) -> Price | None:
        """From the list of types, without disk and address."""
        try:
            page = 1
            while True:
                answer = self._instances.list_servers_types(zone=region, page=page, per_page=_PAGE)
                if size in answer.servers:
                    offer = answer.servers[size]
                    return Price(float(offer.hourly_price), "EUR", "Scaleway's list of types")
                if len(answer.servers) < _PAGE:
                    return None
                page += 1
        except _ERRORS as error:
            raise _problem("tell prices", error) from error

    def _servers(self, tag: str, zone: str) -> Sequence[Any]:
        servers: list[Any] = []
        page = 1
        while True:
            answer = self._instances.list_servers(zone=zone, tags=[tag], page=page, per_page=_PAGE)
            servers += answer.servers
            if len(answer.servers) < _PAGE:
                return servers
            page += 1

    def _remove_loose_disks(self, prefix: str, zone: str) -> None:
        for disk in self._instances.list_volumes(zone=zone, name=prefix).volumes:
            if disk.name.startswith(prefix) and disk.server is None and _old(disk.creation_date):
                self._instances.delete_volume(volume_id=disk.id, zone=zone)
        for disk in self._blocks.list_volumes(include_deleted=False, zone=zone, name=prefix).volumes:
            if disk.name.startswith(prefix) and not disk.references and _old(disk.created_at):
                self._blocks.delete_volume(volume_id=disk.id, zone=zone)


def _old(made: Any) -> bool:
    return made is not None and time.time() - made.timestamp() > _LOOSE_S


def _seen(server: Any, zone: str) -> MachineSeen:
    return MachineSeen(
        id=server.id,
        name=server.name,
        size=server.commercial_type,
        region=zone,
        power=_POWER.get(server.state, Power.OFF),
        created_s=server.creation_date.timestamp(),
        address=server.public_ips[0].address if server.public_ips else "",
    )


def _problem(doing: str, error: Exception) -> ProviderError:
    if not isinstance(error, ScalewayException):
        return problem(Answer("Scaleway", doing, None, message=type(error).__name__))
    return problem(spoken("Scaleway", doing, error.response, code_field="type"))
