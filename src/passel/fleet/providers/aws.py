"""Amazon's EC2, on demand and spot, through boto3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from passel.fleet.config import AwsAccount
from passel.fleet.machine import (
    FLEET_TAG,
    Listing,
    MachineSeen,
    Order,
    Power,
    Price,
    ProviderError,
    RefusedError,
    UncertainError,
)
from passel.fleet.providers.answers import Answer, problem

_FLEET_KEY = "passel-fleet"
_POWER = {"pending": Power.STARTING, "running": Power.ON, "shutting-down": Power.LEAVING}
_DISK_GB = 40
_ALIVE = ["pending", "running", "shutting-down", "stopping", "stopped"]
_NOTICE = [
    "marked-for-termination",
    "marked-for-stop",
    "instance-terminated-by-price",
    "instance-terminated-no-capacity",
]


class AwsProvider:
    """The machine's name is EC2's client token: the same order again gives the same machine."""

    name = "aws"

    def __init__(self, account: AwsAccount) -> None:
        self._account = account
        self._session = boto3.Session(
            aws_access_key_id=account.access_key.value or None,
            aws_secret_access_key=account.secret_key.value or None,
        )
        self._clients: dict[str, Any] = {}
        self._root_disk = cache(self._ask_root_disk)

    def create(self, order: Order) -> str:
        """See `Provider`."""
        try:
            made = self._client(order.region).run_instances(**self._wishes(order))
            return str(made["Instances"][0]["InstanceId"])
        except (ClientError, BotoCoreError) as error:
            raise _problem("create a machine", error) from error

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """Each region is asked; one that does not answer hides nothing of the others."""
        machines: list[MachineSeen] = []
        silent: dict[str, ProviderError] = {}
        for region in regions:
            try:
                machines += self._list(fleet, region)
            except (ClientError, BotoCoreError) as error:
                silent[region] = _problem(f"list machines in {region}", error)
        if silent and len(silent) == len(regions):
            raise next(iter(silent.values()))
        return Listing(tuple(machines), frozenset(silent))

    def destroy(self, machine_id: str, region: str) -> None:
        """See `Provider`."""
        try:
            self._client(region).terminate_instances(InstanceIds=[machine_id])
        except ClientError as error:
            if not error.response.get("Error", {}).get("Code", "").startswith("InvalidInstanceID"):
                raise _problem("destroy a machine", error) from error
        except BotoCoreError as error:
            raise _problem("destroy a machine", error) from error

    def price(self, size: str, region: str) -> Price | None:
        """The spot market's latest; EC2 itself does not tell what on-demand machines cost."""
        if not self._account.spot:
            return None
        try:
            answer = self._client(region).describe_spot_price_history(
                InstanceTypes=[size], ProductDescriptions=["Linux/UNIX"], StartTime=datetime.now(UTC), MaxResults=20
            )
        except (ClientError, BotoCoreError) as error:
            raise _problem("tell prices", error) from error
        prices = [float(p["SpotPrice"]) for p in answer["SpotPriceHistory"]]
        return Price(max(prices), "USD", "the spot market's dearest zone now") if prices else None

    def _client(self, region: str) -> Any:
        if region not in self._clients:
            patience = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 1})
            self._clients[region] = self._session.client(
                "ec2", region_name=region, endpoint_url=self._account.endpoint, config=patience
            )
        return self._clients[region]

    def _list(self, fleet: str, region: str) -> Sequence[MachineSeen]:
        client = self._client(region)
        ours = (
            {"Name": f"tag:{_FLEET_KEY}", "Values": [fleet]} if fleet else {"Name": "tag-key", "Values": [_FLEET_KEY]}
        )
        filters = [ours, {"Name": "instance-state-name", "Values": _ALIVE}]
        pages = client.get_paginator("describe_instances").paginate(Filters=filters)
        instances = [i for page in pages for group in page["Reservations"] for i in group["Instances"]]
        notices = self._notices(client) if any(i.get("InstanceLifecycle") == "spot" for i in instances) else set()
        return [self._seen(i, region, i["InstanceId"] in notices) for i in instances]

    def _notices(self, client: Any) -> set[str]:
        """Spot machines that EC2 has announced to take back, two minutes before it does."""
        answer = client.describe_spot_instance_requests(Filters=[{"Name": "status-code", "Values": _NOTICE}])
        return {r["InstanceId"] for r in answer["SpotInstanceRequests"] if r.get("InstanceId")}

    def _seen(self, instance: Mapping[str, Any], region: str, evicted: bool) -> MachineSeen:
        names = [t["Value"] for t in instance.get("Tags", []) if t["Key"] == "Name"]
        public, private = instance.get("PublicIpAddress", ""), instance.get("PrivateIpAddress", "")
        inside = self._account.use_private_address or self._account.no_public_address
        return MachineSeen(
            id=instance["InstanceId"],
            name=names[0] if names else "",
            size=instance["InstanceType"],
            region=region,
            power=_POWER.get(instance["State"]["Name"], Power.OFF),
            created_s=instance["LaunchTime"].timestamp(),
            address=private if inside else public,
            evicted=evicted,
        )

    def _wishes(self, order: Order) -> dict[str, Any]:
        """The arguments of RunInstances. The disk goes with the machine, and a machine that switches itself off is gone."""
        account, client = self._account, self._client(order.region)
        tags = [("Name", order.name), (FLEET_TAG, "machine"), (_FLEET_KEY, order.fleet), *account.tags]
        tag_list = [{"Key": key, "Value": value} for key, value in tags]
        device, image_gb = self._root_disk(order.region)
        disk = {"DeleteOnTermination": True, "VolumeSize": order.storage_gb or image_gb, "VolumeType": "gp3"}
        zone = order.region + account.zone if len(account.zone) == 1 else account.zone
        wishes: dict[str, Any] = {
            "ImageId": account.ami,
            "MinCount": 1,
            "MaxCount": 1,
            "InstanceType": order.size,
            "UserData": order.boot_script,
            "ClientToken": order.name,
            "InstanceInitiatedShutdownBehavior": "terminate",
            "Monitoring": {"Enabled": account.monitoring},
            "TagSpecifications": [{"ResourceType": kind, "Tags": tag_list} for kind in ("instance", "volume")],
            "BlockDeviceMappings": [{"DeviceName": device, "Ebs": disk}],
            "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 2},
        }
        if zone:
            wishes["Placement"] = {"AvailabilityZone": zone}
        if account.iam_role:
            wishes["IamInstanceProfile"] = {"Name": account.iam_role}
        if account.spot:
            market = {} if order.spot_price is None else {"MaxPrice": f"{order.spot_price:g}"}
            wishes["InstanceMarketOptions"] = {
                "MarketType": "spot",
                "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"} | market,
            }
        return wishes | self._network(client, zone)

    def _network(self, client: Any, zone: str) -> dict[str, Any]:
        account = self._account
        subnet = account.subnet or (self._subnet(client, zone) if account.vpc else "")
        group = account.security_group
        if not group.startswith("sg-"):
            group = self._group(client, group)
        if not account.no_public_address:
            return {"SecurityGroupIds": [group]} | ({"SubnetId": subnet} if subnet else {})
        card: dict[str, Any] = {"DeviceIndex": 0, "Groups": [group], "AssociatePublicIpAddress": False}
        return {"NetworkInterfaces": [card | ({"SubnetId": subnet} if subnet else {})]}

    def _subnet(self, client: Any, zone: str) -> str:
        filters = [{"Name": "vpc-id", "Values": [self._account.vpc]}]
        if zone:
            filters.append({"Name": "availability-zone", "Values": [zone]})
        found = client.describe_subnets(Filters=filters)["Subnets"]
        if not found:
            raise RefusedError("AWS knows no subnet there", self._account.vpc, "check vpc and zone, or give subnet")
        return str(found[0]["SubnetId"])

    def _group(self, client: Any, name: str) -> str:
        filters = [{"Name": "group-name", "Values": [name]}]
        if self._account.vpc:
            filters.append({"Name": "vpc-id", "Values": [self._account.vpc]})
        found = client.describe_security_groups(Filters=filters)["SecurityGroups"]
        if not found:
            raise RefusedError("AWS knows no such security group", name, "check securityGroup, or write its sg-… id")
        return str(found[0]["GroupId"])

    def _ask_root_disk(self, region: str) -> tuple[str, int]:
        """The name of an image's root disk and its size in GB."""
        found = self._client(region).describe_images(ImageIds=[self._account.ami])["Images"]
        if not found:
            raise RefusedError("AWS knows no such image in this region", f"{self._account.ami}, {region}", "check ami")
        device = str(found[0].get("RootDeviceName") or "/dev/sda1")
        disks = {d["DeviceName"]: d.get("Ebs", {}) for d in found[0].get("BlockDeviceMappings", [])}
        return device, int(disks.get(device, {}).get("VolumeSize") or _DISK_GB)


def _problem(doing: str, error: ClientError | BotoCoreError) -> ProviderError:
    if not isinstance(error, ClientError):
        if "credential" in type(error).__name__.lower():
            return RefusedError("AWS: no keys to the account were found", todo="give accessKey and secretKey")
        return UncertainError(f"AWS could not {doing}: {type(error).__name__}", todo="it is tried again")
    said = error.response.get("Error", {})
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
    return problem(Answer("AWS", doing, int(status), str(said.get("Code", "")), str(said.get("Message", ""))))
