"""The part of a fleet file that differs between providers: keys to the account, places, images."""

from __future__ import annotations

import shlex

from passel.errors import UsageError
from passel.fleet.config import (
    Account,
    AwsAccount,
    DigitalOceanAccount,
    HetznerAccount,
    LocalAccount,
    ScalewayAccount,
    SshAccount,
)
from passel.fleet.keys import Keys

PROVIDERS = ("digitalocean", "aws", "hetzner", "scaleway", "local", "ssh")


def read_account(provider: str, keys: Keys) -> tuple[Account, tuple[str, ...]]:
    """The account and the regions to try. Raises UsageError."""
    read = {
        "digitalocean": _digitalocean,
        "aws": _aws,
        "hetzner": _hetzner,
        "scaleway": _scaleway,
        "local": _local,
        "ssh": _ssh,
    }[provider]
    account, regions = read(keys)
    if not regions:
        raise UsageError(
            "No place for machines is given", keys.where("hosts" if provider == "ssh" else "region"), "add one"
        )
    return account, regions


def _digitalocean(keys: Keys) -> tuple[Account, tuple[str, ...]]:
    image, snapshot = keys.text("image", DigitalOceanAccount.image), keys.flag("snapshot")
    if snapshot and not image.isdigit():
        raise UsageError(
            "A snapshot is named by its number", keys.where("image"), "write the number that the API lists"
        )
    account = DigitalOceanAccount(
        token=keys.secret("accessToken"),
        image=image,
        ssh_fingerprint=_ssh_key(keys),
        monitoring=keys.flag("monitoring"),
        tags=keys.texts("tags"),
        endpoint=keys.text("endpoint", DigitalOceanAccount.endpoint),
    )
    return account, keys.texts("region", ("nyc3",))


def _aws(keys: Keys) -> tuple[Account, tuple[str, ...]]:
    _ssh_key(keys)
    access, secret = keys.secret("accessKey", required=False), keys.secret("secretKey", required=False)
    if bool(access) != bool(secret):
        raise UsageError("accessKey and secretKey belong together", keys.where("accessKey"), "give both or none")
    account = AwsAccount(
        access_key=access,
        secret_key=secret,
        security_group=keys.text("securityGroup"),
        ami=keys.text("ami"),
        zone=keys.text("zone", ""),
        vpc=keys.text("vpc", ""),
        subnet=keys.text("subnet", ""),
        spot=keys.flag("spot"),
        iam_role=keys.text("iamrole", ""),
        use_private_address=keys.flag("usePrivateAddress"),
        no_public_address=keys.flag("assignPrivateAddressOnly"),
        monitoring=keys.flag("monitoring"),
        tags=_pairs(keys),
        endpoint=keys.text("endpoint", "") or None,
    )
    return account, keys.texts("region", ("us-west-2",))


def _pairs(keys: Keys) -> tuple[tuple[str, str], ...]:
    """docker-machine's form: key,value,key,value, in one text or several."""
    words = ",".join(keys.texts("tags")).split(",")
    if words == [""]:
        return ()
    if len(words) % 2:
        raise UsageError("Tags must be pairs", keys.where("tags"), 'write ["key,value", …]')
    return tuple(zip(words[::2], words[1::2], strict=True))


def _hetzner(keys: Keys) -> tuple[Account, tuple[str, ...]]:
    keys.flag("snapshot")  # the image's number says it already
    account = HetznerAccount(
        token=keys.secret("apiToken"),
        image=keys.text("image"),
        ssh_fingerprint=_ssh_key(keys),
        endpoint=keys.text("endpoint", HetznerAccount.endpoint),
    )
    return account, keys.texts("location", ("fsn1",))


def _scaleway(keys: Keys) -> tuple[Account, tuple[str, ...]]:
    account = ScalewayAccount(
        secret_token=keys.secret("secretToken"),
        organization=keys.text("organization", ""),
        project=keys.text("project", ""),
        image=keys.text("image", ScalewayAccount.image),
        volume_type=keys.text("volumeType", ScalewayAccount.volume_type),
        endpoint=keys.text("endpoint", ScalewayAccount.endpoint),
    )
    if not account.organization and not account.project:
        raise UsageError("Scaleway needs an organization or a project", keys.where("organization"), "add its id")
    return account, tuple(_zone(place) for place in keys.texts("region", ("fr-par-1",)))


def _zone(place: str) -> str:
    """ClusterODM's short names (par1, ams1) as the API's zones (fr-par-1, nl-ams-1)."""
    country = {"par": "fr", "ams": "nl", "waw": "pl"}.get(place[:3])
    return f"{country}-{place[:3]}-{place[3:]}" if country and place[3:].isdigit() else place


def _local(keys: Keys) -> tuple[Account, tuple[str, ...]]:
    return LocalAccount(folder=keys.text("folder", "")), ("here",)


def _ssh(keys: Keys) -> tuple[Account, tuple[str, ...]]:
    command = tuple(shlex.split(keys.text("sshCommand", shlex.join(SshAccount.command))))
    return SshAccount(command=command), keys.texts("hosts")


def _ssh_key(keys: Keys) -> str:
    """The fingerprint of a key that the account knows; nobody needs it but you, to look at a machine."""
    table = keys.table("sshKey")
    table.text("path", "")  # docker-machine logged in with it; Passel does not log in
    return table.text("fingerprint", "")
