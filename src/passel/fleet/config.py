"""What a fleet file says, as data. `fleet_file.py` reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from passel.fleet.secret import Secret


class Kind(Enum):
    """What a machine of the fleet becomes."""

    WORKER = "worker"
    """Joins this Passel."""
    NODE = "node"
    """Runs an image that speaks the NodeODM API and is attached to the gateway."""


@dataclass(frozen=True)
class Size:
    """One line of the size mapping."""

    slug: str
    """The provider's word for this kind of machine."""
    max_photos: int
    """Jobs with up to so many photos get this size."""
    price_hour: float | None = None
    """What an hour costs; None asks the provider."""
    memory_mb: int | None = None
    """Its memory; a job whose steps declare more gets a larger size. None: not compared."""
    spot_price: float | None = None
    """The most to pay an hour for a spot machine; None pays the market's price."""
    storage_gb: int | None = None
    """Disk, where the provider lets one choose."""


@dataclass(frozen=True)
class Limits:
    """How much, how long, how often."""

    machines: int | None = None
    """The most machines at once; None means no limit."""
    create_retries: int = 1
    """How often a turn tries to make one machine before it waits."""
    min_photos: int = 0
    """Jobs with fewer photos get no machine."""
    photos_per_machine: int = 250
    """Workers only: a job wants one machine for each so many photos."""
    grace_s: float = 120.0
    """So long may a new machine be missing from the cloud's listing."""
    boot_s: float = 900.0
    """A machine that has not joined after this long is destroyed."""
    idle_s: float = 300.0
    """A machine without work for so long is drained."""
    upload_s: float | None = None
    """A machine that never had work may wait so long for it, when longer than `idle_s`."""
    runtime_s: float | None = None
    """A machine older than this is drained; None means no limit."""
    drain_s: float = 900.0
    """How long a draining machine may finish what it does; then it is destroyed."""
    silent_s: float = 600.0
    """A machine that was there and is not heard of for so long is destroyed."""
    dead_man_s: float = 1800.0
    """A machine that cannot reach the coordinator for so long switches itself off."""
    turn_s: float = 10.0
    """Seconds between two turns of the loop."""


@dataclass(frozen=True)
class Budget:
    """The most to spend."""

    amount: float
    currency: str
    monthly: bool
    """True counts from the first of the month (UTC), False for ever."""


@dataclass(frozen=True)
class Boot:
    """What a machine does when it starts."""

    url: str = ""
    """The coordinator's address as machines reach it, like https://passel.example.org:3000."""
    workers_url: str = ""
    """The workers' port, like https://192.0.2.7:3001; only own join commands use it."""
    join_command: str = ""
    """Makes the machine a worker and stays in the foreground. docs/cloud.md tells its variables."""
    add_swap: float = 1.0
    """A swap file of this many times the memory."""
    docker_image: str = "opendronemap/nodeodm"
    docker_gpu: bool = False
    engine_install_url: str = "https://get.docker.com"
    setup_command: str = ""
    """Runs first; for instance mounts a disk."""
    data_folder: str = ""
    """On nodes: the folder of the machine that holds the node's data, on a large disk."""


@dataclass(frozen=True)
class Results:
    """Where finished products go."""

    access_key: Secret
    secret_key: Secret
    endpoint: str
    bucket: str
    region: str = ""
    acl: str = "private"
    verify_tls: bool = True
    prefix: str = ""
    """Keys begin with this."""


@dataclass(frozen=True)
class DigitalOceanAccount:
    """Droplets."""

    token: Secret
    image: str = "ubuntu-24-04-x64"
    """A slug, or the number of an image or snapshot."""
    ssh_fingerprint: str = ""
    monitoring: bool = False
    tags: tuple[str, ...] = ()
    endpoint: str = "https://api.digitalocean.com"


@dataclass(frozen=True)
class AwsAccount:
    """EC2. Without keys boto3 looks for them as it always does (role of the machine, environment, ~/.aws)."""

    access_key: Secret
    secret_key: Secret
    security_group: str
    """A name or sg-…"""
    ami: str
    zone: str = ""
    """One letter after the region, as ClusterODM writes it, or the whole name."""
    vpc: str = ""
    subnet: str = ""
    spot: bool = False
    iam_role: str = ""
    use_private_address: bool = False
    no_public_address: bool = False
    monitoring: bool = False
    tags: tuple[tuple[str, str], ...] = ()
    endpoint: str | None = None


@dataclass(frozen=True)
class HetznerAccount:
    """Hetzner Cloud."""

    token: Secret
    image: str
    ssh_fingerprint: str = ""
    endpoint: str = "https://api.hetzner.cloud/v1"


@dataclass(frozen=True)
class ScalewayAccount:
    """Scaleway Instances."""

    secret_token: Secret
    organization: str = ""
    project: str = ""
    image: str = "ubuntu_noble"
    volume_type: str = "sbs_volume"
    """sbs_volume, or l_ssd for types with a disk of their own."""
    endpoint: str = "https://api.scaleway.com"


@dataclass(frozen=True)
class LocalAccount:
    """Worker processes on this machine."""

    folder: str = ""
    """Where machines keep their files; empty: beside the ledger."""


@dataclass(frozen=True)
class SshAccount:
    """Own hosts, each good for one machine at a time."""

    command: tuple[str, ...] = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")


Account = DigitalOceanAccount | AwsAccount | HetznerAccount | ScalewayAccount | LocalAccount | SshAccount


@dataclass(frozen=True)
class FleetConfig:
    """A whole fleet file."""

    provider: str
    kind: Kind
    account: Account
    regions: tuple[str, ...]
    """Tried one after another; for ssh the hosts."""
    sizes: tuple[Size, ...]
    """Ascending by `max_photos`."""
    limits: Limits
    boot: Boot
    budget: Budget | None = None
    results: Results | None = None
    currency: str = "USD"
    remarks: tuple[str, ...] = field(default=())
    """What the reader wants the user to know: unknown keys, keys that mean nothing here."""

    @property
    def spot(self) -> bool:
        """True when machines are bought on the spot market."""
        return isinstance(self.account, AwsAccount) and self.account.spot

    @property
    def budget_text(self) -> str:
        """The budget in words."""
        if self.budget is None:
            return "no budget"
        return f"{self.budget.amount:g} {self.budget.currency} {'a month' if self.budget.monthly else 'in all'}"
