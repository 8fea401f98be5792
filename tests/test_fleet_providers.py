"""Every provider keeps the same promises: through the real SDK against a server that speaks the cloud's wire format."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from moto import mock_aws

from fake_clouds.digitalocean import FakeDigitalOcean
from fake_clouds.hetzner import FakeHetzner
from fake_clouds.scaleway import FakeScaleway
from fake_clouds.server import FakeCloud
from passel.fleet.config import (
    AwsAccount,
    DigitalOceanAccount,
    HetznerAccount,
    ScalewayAccount,
    SshAccount,
)
from passel.fleet.machine import (
    BusyError,
    Listing,
    MachineSeen,
    NoCapacityError,
    Order,
    Power,
    Provider,
    ProviderError,
    RefusedError,
    UncertainError,
)
from passel.fleet.providers.aws import AwsProvider
from passel.fleet.providers.bounded import BoundedProvider
from passel.fleet.providers.digitalocean import DigitalOceanProvider
from passel.fleet.providers.hetzner import HetznerProvider
from passel.fleet.providers.local import LocalProvider
from passel.fleet.providers.scaleway import ScalewayProvider
from passel.fleet.providers.ssh import SshProvider
from passel.fleet.secret import Secret

FLEET = "f1ee7000"
SSH = Path(__file__).parent / "fake_clouds" / "ssh.sh"
HTTP_CLOUDS = ["digitalocean", "hetzner", "scaleway"]


@dataclass(frozen=True)
class Stage:
    """A provider with the cloud behind it (None where there is no server of ours), and an order that it can serve."""

    provider: Provider
    cloud: FakeCloud | None
    order: Order
    regions: tuple[str, ...]


def order(size: str, region: str, name: str = f"passel-{FLEET}-1", fleet: str = FLEET) -> Order:
    return Order(name, fleet, size, region, "#!/bin/sh\nexport PASSEL_MACHINE PASSEL_FLEET\nsleep 300\n")


def http_stage(which: str, folder: Path, key: str | None = None) -> Stage:
    cloud: FakeCloud
    provider: Provider
    if which == "digitalocean":
        cloud = FakeDigitalOcean(folder)
        account = DigitalOceanAccount(Secret(key or cloud.secret), endpoint=cloud.url, tags=("survey",))
        provider, wanted = DigitalOceanProvider(account), order("c-8", "fra1")
    elif which == "hetzner":
        cloud = FakeHetzner(folder)
        provider = HetznerProvider(HetznerAccount(Secret(key or cloud.secret), "ubuntu-24.04", endpoint=cloud.url))
        wanted = order("cpx41", "fsn1")
    else:
        cloud = FakeScaleway(folder)
        provider = ScalewayProvider(ScalewayAccount(Secret(key or cloud.secret), project="p", endpoint=cloud.url))
        wanted = order("DEV1-XL", "fr-par-1")
    return Stage(provider, cloud, wanted, (wanted.region,))


@pytest.fixture
def http(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    made = http_stage(request.param, tmp_path)
    yield made
    assert made.cloud is not None
    made.cloud.close()


@pytest.fixture(scope="module")
def amazon() -> Iterator[str]:
    """moto's EC2, and an image that it knows; made once, for it takes its time."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield "ami-03cf127a"


@pytest.fixture
def aws(amazon: str) -> Iterator[Stage]:
    account = AwsAccount(Secret("key-id"), Secret("the-aws-secret"), "default", amazon, tags=(("team", "maps"),))
    provider = AwsProvider(account)
    yield Stage(provider, None, order("m5.large", "us-west-2"), ("us-west-2",))
    for machine in provider.list("", ("us-west-2",)).machines:
        provider.destroy(machine.id, machine.region)


@pytest.fixture(params=[*HTTP_CLOUDS, "aws", "local", "ssh"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    if request.param in HTTP_CLOUDS:
        made = http_stage(request.param, tmp_path)
    elif request.param == "aws":
        made = request.getfixturevalue("aws")
    elif request.param == "local":
        made = Stage(LocalProvider(tmp_path), None, order("host", "here"), ("here",))
    else:
        hosts = ("pilot@one", "pilot@two")
        made = Stage(SshProvider(SshAccount((str(SSH), str(tmp_path)))), None, order("host", hosts[0]), hosts)
    yield made
    for machine in (
        made.provider.list(FLEET, made.regions).machines + made.provider.list("0ther000", made.regions).machines
    ):
        made.provider.destroy(machine.id, machine.region)
    if made.cloud:
        made.cloud.close()


def listed(stage: Stage, count: int, fleet: str = FLEET) -> tuple[MachineSeen, ...]:
    """The machines, as soon as there are so many: a process needs a moment to begin and to end."""
    for _ in range(200):
        machines = stage.provider.list(fleet, stage.regions).machines
        if len(machines) == count:
            return machines
        time.sleep(0.05)
    raise AssertionError(f"{machines} instead of {count} machines")


def test_made_listed_destroyed(stage: Stage) -> None:
    before_s = time.time()
    machine_id = stage.provider.create(stage.order)
    (seen,) = listed(stage, 1)
    wanted = (machine_id, stage.order.name, stage.order.size, stage.order.region)
    assert (seen.id, seen.name, seen.size, seen.region) == wanted
    assert seen.power in {Power.ON, Power.STARTING}
    assert before_s - 3 < seen.created_s < time.time() + 3
    assert seen.address
    stage.provider.destroy(machine_id, stage.order.region)
    listed(stage, 0)
    stage.provider.destroy(machine_id, stage.order.region)


def test_fleets_are_told_apart(stage: Stage) -> None:
    stage.provider.create(stage.order)
    stage.provider.create(replace(stage.order, name="passel-0ther000-1", fleet="0ther000", region=stage.regions[-1]))
    assert [m.name for m in listed(stage, 1)] == [stage.order.name]
    assert {m.name for m in listed(stage, 2, fleet="")} >= {stage.order.name, "passel-0ther000-1"}


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("429", BusyError),
        ("no capacity", NoCapacityError),
        ("quota", RefusedError),
        ("500 before", UncertainError),
        ("500 after", UncertainError),
    ],
)
def test_refusals_are_told_apart(http: Stage, fault: str, kind: type[ProviderError]) -> None:
    assert http.cloud is not None
    http.cloud.boots = False
    # The hcloud SDK asks again by itself when it was too fast.
    http.cloud.faults["create"].extend([fault] * (6 if fault == "429" and http.provider.name != "hetzner" else 1))
    with pytest.raises(ProviderError) as caught:
        http.provider.create(http.order)
    assert type(caught.value) is kind, caught.value
    assert http.cloud.secret not in str(caught.value)
    assert len(listed(http, int(fault == "500 after"))) == len(http.cloud.machines)


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
@pytest.mark.parametrize("fault", ["500", "html", "429"])
def test_a_listing_that_fails_says_so(http: Stage, fault: str) -> None:
    assert http.cloud is not None
    http.cloud.faults["list"].append(fault)
    with pytest.raises((UncertainError, BusyError)):
        http.provider.list(FLEET, http.regions)


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
@pytest.mark.parametrize("pages", ["", "twice"])
def test_many_pages_are_read(http: Stage, pages: str) -> None:
    assert http.cloud is not None
    http.cloud.boots = False
    http.cloud.page_size = {"digitalocean": 7, "hetzner": 7, "scaleway": 50}[http.provider.name]
    for number in range(120 if http.provider.name == "scaleway" else 20):
        http.provider.create(replace(http.order, name=f"passel-{FLEET}-{number}"))
    if pages:
        http.cloud.faults["list"].append(pages)
    found = {m.id for m in http.provider.list(FLEET, http.regions).machines}
    missing = len(http.cloud.machines) - len(found)
    assert missing == 0 or (pages and missing <= 3), "an overlap may push the last ones off; the census forgives that"


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
def test_destroy_that_fails_is_known(http: Stage) -> None:
    assert http.cloud is not None
    machine_id = http.provider.create(http.order)
    http.cloud.faults["destroy"].append("500 before")
    with pytest.raises(UncertainError):
        http.provider.destroy(machine_id, http.order.region)
    http.provider.destroy(machine_id, http.order.region)
    listed(http, 0)


@pytest.mark.parametrize("which", HTTP_CLOUDS)
def test_a_wrong_key_is_named(which: str, tmp_path: Path) -> None:
    wrong = http_stage(which, tmp_path, key="11111111-2222-3333-4444-555555555555")
    with pytest.raises(RefusedError, match="check the key to the account") as caught:
        wrong.provider.list(FLEET, wrong.regions)
    assert "1111" not in str(caught.value)
    assert wrong.cloud is not None
    wrong.cloud.close()


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
def test_nobody_at_home_is_unclear(http: Stage) -> None:
    assert http.cloud is not None
    http.cloud.close()
    with pytest.raises(UncertainError):
        http.provider.create(http.order)
    with pytest.raises(UncertainError):
        http.provider.list(FLEET, http.regions)


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
def test_prices_are_asked(http: Stage) -> None:
    price = http.provider.price(http.order.size, http.order.region)
    assert price is not None
    assert price.per_hour == {"digitalocean": 0.25, "hetzner": 0.0476, "scaleway": 0.0638}[http.provider.name]
    assert http.provider.price("no-such-size", http.order.region) is None or http.provider.name == "hetzner"


@pytest.mark.parametrize("http", HTTP_CLOUDS, indirect=True)
def test_secrets_travel_in_one_header_only(http: Stage, caplog: pytest.LogCaptureFixture) -> None:
    assert http.cloud is not None
    with caplog.at_level(logging.INFO):
        http.provider.create(http.order)
        http.provider.list(FLEET, http.regions)
    for request in http.cloud.requests:
        assert http.cloud.secret not in request.body.decode() + request.path + str(request.query)
        assert sum(http.cloud.secret in value for value in request.headers.values()) == 1
    assert http.cloud.secret not in caplog.text
    assert http.cloud.secret not in repr(vars(http.provider).get("_account"))


@pytest.mark.parametrize("http", ["hetzner"], indirect=True)
def test_the_same_order_twice_is_one_server(http: Stage) -> None:
    assert http.provider.create(http.order) == http.provider.create(http.order)
    listed(http, 1)


@pytest.mark.parametrize("http", ["scaleway"], indirect=True)
def test_scaleways_disks_go_too(http: Stage) -> None:
    assert isinstance(http.cloud, FakeScaleway)
    http.provider.destroy(http.provider.create(http.order), http.order.region)
    (disk,) = http.cloud.disks.values()
    listed(http, 0)
    assert http.cloud.disks, "it may be between two calls"
    disk.made = "2026-01-01T00:00:00Z"
    listed(http, 0)
    assert not http.cloud.disks


@pytest.mark.parametrize("http", ["scaleway"], indirect=True)
def test_a_disk_that_does_not_go_hides_no_machine(http: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(http.provider, ScalewayProvider)

    def stuck(prefix: str, zone: str) -> None:
        raise OSError("the volume is in error")

    monkeypatch.setattr(http.provider, "_remove_loose_disks", stuck)
    http.provider.create(http.order)
    listing = http.provider.list(FLEET, http.regions)
    assert len(listing.machines) == 1
    assert not listing.silent_regions


def test_aws_is_asked_for_what_the_file_says(aws: Stage) -> None:
    machine_id = aws.provider.create(replace(aws.order, storage_gb=77))
    client = boto3.client("ec2", "us-west-2", aws_access_key_id="a", aws_secret_access_key="b")
    (group,) = client.describe_instances(InstanceIds=[machine_id])["Reservations"]
    tags = {t["Key"]: t["Value"] for t in group["Instances"][0]["Tags"]}
    assert tags == {"Name": aws.order.name, "passel": "machine", "passel-fleet": FLEET, "team": "maps"}
    mine = [{"Name": "attachment.instance-id", "Values": [machine_id]}]
    (volume,) = client.describe_volumes(Filters=mine)["Volumes"]
    assert volume["Size"] == 77
    behaviour = client.describe_instance_attribute(InstanceId=machine_id, Attribute="instanceInitiatedShutdownBehavior")
    assert behaviour["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_an_announced_eviction_is_seen(aws: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(aws.provider, AwsProvider)
    spot = AwsProvider(replace(aws.provider._account, spot=True))
    machine_id = spot.create(replace(aws.order, spot_price=0.05))
    assert not spot.list(FLEET, aws.regions).machines[0].evicted
    notice = {"SpotInstanceRequests": [{"InstanceId": machine_id, "Status": {"Code": "marked-for-termination"}}]}
    monkeypatch.setattr(spot._client("us-west-2"), "describe_spot_instance_requests", lambda **_: notice)
    assert spot.list(FLEET, aws.regions).machines[0].evicted


def test_aws_names_what_is_wrong(aws: Stage) -> None:
    assert isinstance(aws.provider, AwsProvider)
    wrong = AwsProvider(replace(aws.provider._account, security_group="nobody"))
    with pytest.raises(RefusedError, match="no such security group"):
        wrong.create(aws.order)
    wrong = AwsProvider(replace(aws.provider._account, ami="ami-00000000"))
    with pytest.raises(RefusedError):
        wrong.create(aws.order)


def test_a_host_that_is_taken_or_away(tmp_path: Path) -> None:
    provider = SshProvider(SshAccount((str(SSH), str(tmp_path))))
    first = order("host", "one")
    provider.create(first)
    stage = Stage(provider, None, first, ("one",))
    listed(stage, 1)
    provider.create(first)
    listed(stage, 1)
    (pid,) = tmp_path.rglob("pid")
    os.utime(pid, (time.time() + 3600, time.time() + 3600))  # the host's clock was set back
    (machine,) = listed(stage, 1)
    assert machine.created_s <= time.time()
    with pytest.raises(NoCapacityError):
        provider.create(replace(first, name=f"passel-{FLEET}-2"))
    listing = provider.list(FLEET, ("one", "unreachable"))
    assert len(listing.machines) == 1
    assert listing.silent_regions == {"unreachable"}
    with pytest.raises(UncertainError, match="No route to host"):
        provider.list(FLEET, ("unreachable",))
    provider.destroy(first.name, "one")
    listed(stage, 0)


def test_a_local_machine_takes_strays_with_it(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path)
    stray = order("host", "here")
    stray = replace(stray, boot_script="setsid sleep 300 &\nsetsid setsid sleep 301 &\nexit 0\n")
    provider.create(stray)
    stage = Stage(provider, None, stray, ("here",))
    listed(stage, 1)
    assert not (tmp_path / stray.name / "boot.sh").stat().st_mode & 0o077
    provider.destroy(stray.name, "here")
    listed(stage, 0)
    assert not (tmp_path / stray.name).exists()


def test_a_call_that_hangs_is_left_behind() -> None:
    class Hanging(LocalProvider):
        def list(self, fleet: str, regions: object) -> Listing:
            time.sleep(5)
            return Listing(())

    provider = BoundedProvider(Hanging(Path("nowhere")), limit_s=0.1)
    with pytest.raises(UncertainError, match="did not list machines within"):
        provider.list(FLEET, ("here",))


def test_stand_ins_shadow_what_would_change_this_computer(tmp_path: Path) -> None:
    cloud = FakeHetzner(tmp_path)
    for name in ("shutdown", "mkswap", "swapon", "docker", "poweroff", "fallocate"):
        assert shutil.which(name, path=str(cloud.stand_ins)) == str(cloud.stand_ins / name)
    cloud.close()
