"""Opens the provider that a fleet file names. SDKs are imported only here, and only the one that is used."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

from passel.errors import UsageError
from passel.fleet.config import (
    AwsAccount,
    DigitalOceanAccount,
    FleetConfig,
    HetznerAccount,
    LocalAccount,
    ScalewayAccount,
    SshAccount,
)
from passel.fleet.machine import Provider
from passel.fleet.providers.bounded import BoundedProvider

_SDK = {"digitalocean": "pydo", "aws": "boto3", "hetzner": "hcloud", "scaleway": "scaleway"}
_CHATTY = ("azure", "boto3", "botocore", "urllib3", "hcloud", "scaleway")
"""These log requests, with boot scripts and sometimes keys, when the whole program is set to debug."""


def open_provider(config: FleetConfig, folder: Path) -> Provider:
    """The provider with a time limit on its calls. `folder` is where local machines keep their files. Raises UsageError."""
    sdk = _SDK.get(config.provider)
    if sdk is not None and find_spec(sdk) is None:
        raise UsageError(
            f"The library for {config.provider} is not installed", sdk, "install it: pip install 'passel[cloud]'"
        )
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    return BoundedProvider(_open(config, folder))


def _open(config: FleetConfig, folder: Path) -> Provider:
    account = config.account
    if isinstance(account, DigitalOceanAccount):
        from passel.fleet.providers.digitalocean import DigitalOceanProvider

        return DigitalOceanProvider(account)
    if isinstance(account, AwsAccount):
        from passel.fleet.providers.aws import AwsProvider

        return AwsProvider(account)
    if isinstance(account, HetznerAccount):
        from passel.fleet.providers.hetzner import HetznerProvider

        return HetznerProvider(account)
    if isinstance(account, ScalewayAccount):
        from passel.fleet.providers.scaleway import ScalewayProvider

        return ScalewayProvider(account)
    if isinstance(account, LocalAccount):
        from passel.fleet.providers.local import LocalProvider

        return LocalProvider(Path(account.folder) if account.folder else folder / "machines")
    assert isinstance(account, SshAccount)
    from passel.fleet.providers.ssh import SshProvider

    return SshProvider(account)
