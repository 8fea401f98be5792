"""Reads a fleet file: ClusterODM's JSON as it is, or TOML with the same keys in snake_case; both with Passel's additions.

`docs/cloud.md` lists every key. A secret may stand in the file, or be {"env": "NAME"} or {"file": "PATH"}.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

from passel.errors import UsageError
from passel.fleet.accounts import PROVIDERS, read_account
from passel.fleet.boot import check_length
from passel.fleet.config import Account, AwsAccount, Boot, Budget, FleetConfig, Kind, Limits, Results, Size
from passel.fleet.keys import Keys

_READABLE_BY_OTHERS = 0o077
_JOIN = 'curl -fsS "$PASSEL_URL/join" | sh -s -- --name "$PASSEL_MACHINE" --home "$PASSEL_MACHINE_HOME/worker"'
_JOIN_HERE = (
    f"exec {shlex.quote(sys.executable)} -m passel join"
    ' "$PASSEL_WORKERS_URL" --name "$PASSEL_MACHINE" --home "$PASSEL_MACHINE_HOME/worker"'
)


def read_fleet_file(path: Path) -> FleetConfig:
    """Reads and checks the whole file. Raises UsageError that names the key."""
    toml = path.suffix == ".toml"
    table = _parse(path, toml)
    keys = Keys(table, path)
    provider = keys.text("provider")
    if provider not in PROVIDERS:
        raise UsageError(f"Unknown provider '{provider}'", keys.where("provider"), f"choose {', '.join(PROVIDERS)}")
    kind = _kind(keys)
    account, regions = read_account(provider, keys)
    results = _results(keys, account)
    currency = keys.text("currency", "EUR" if provider in {"hetzner", "scaleway"} else "USD")
    sizes, budget = _sizes(keys, provider), _budget(keys, currency)
    on_demand = isinstance(account, AwsAccount) and not account.spot
    if budget is not None and on_demand and any(s.price_hour is None for s in sizes):
        raise UsageError(
            "A budget needs prices, and EC2 does not tell those of machines on demand",
            keys.where("imageSizeMapping"),
            "write what an hour costs as priceHour beside each slug",
        )
    config = FleetConfig(
        provider=provider,
        kind=kind,
        account=account,
        regions=regions,
        sizes=sizes,
        limits=_limits(keys, provider, kind),
        boot=_boot(keys, kind, provider),
        budget=budget,
        results=results,
        currency=currency,
        remarks=tuple(_remarks(keys, path, toml, results)),
    )
    check_length(config)
    return config


def _parse(path: Path, toml: bool) -> dict[str, object]:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("The fleet file cannot be read", str(path), "check the path and who may read it") from error
    try:
        table = tomllib.loads(text) if toml else json.loads(text)
    except ValueError as error:
        kind = "TOML" if toml else "JSON (a name ending in .toml is read as TOML)"
        raise UsageError(f"The fleet file is not valid {kind}: {error}", str(path), "correct it") from error
    if not isinstance(table, dict):
        raise UsageError("The fleet file must be one table", str(path), "begin it with { and end it with }")
    return {str(k): v for k, v in (_camel_table(table) if toml else table).items()}


def _camel_table(table: dict[str, object]) -> dict[str, object]:
    """TOML's snake_case keys as ClusterODM writes them. A secret's {env = …} and {file = …} have no underscores."""
    return {re.sub(r"_([a-z0-9])", lambda m: m[1].upper(), key): _camel(value) for key, value in table.items()}


def _camel(value: object) -> object:
    if isinstance(value, dict):
        return _camel_table(value)
    return [_camel(v) for v in value] if isinstance(value, list) else value


def _kind(keys: Keys) -> Kind:
    default = Kind.NODE if keys.has("dockerImage") else Kind.WORKER
    word = keys.text("machines", default.value)
    if word not in {k.value for k in Kind}:
        raise UsageError(f"Unknown kind of machines '{word}'", keys.where("machines"), "write worker or node")
    return Kind(word)


def _sizes(keys: Keys, provider: str) -> tuple[Size, ...]:
    sizes = []
    for line in keys.tables("imageSizeMapping"):
        photos = int(line.at_least("maxImages", 1, 1_000_000_000))
        slug = line.text("slug")
        if slug.split() != [slug]:
            raise UsageError("A slug is one word", line.where("slug"), "correct it")
        sizes.append(
            Size(
                slug=slug,
                max_photos=photos,
                price_hour=line.optional_number("priceHour"),
                memory_mb=_whole(line.optional_number("memoryMb")),
                spot_price=line.optional_number("spotPrice"),
                storage_gb=_whole(line.optional_number("storage")),
            )
        )
    if not sizes and provider in {"local", "ssh"}:
        sizes = [Size("host", 1_000_000_000, price_hour=0.0)]
    if not sizes:
        raise UsageError("No sizes are given", keys.where("imageSizeMapping"), "add [{maxImages, slug}]")
    disks = {s.slug: max(o.storage_gb or 0 for o in sizes if o.slug == s.slug) or None for s in sizes}
    # A machine is known by its slug alone, so each of a slug gets the largest disk that a line of the mapping gives it.
    return tuple(sorted((replace(s, storage_gb=disks[s.slug]) for s in sizes), key=lambda s: s.max_photos))


def _limits(keys: Keys, provider: str, kind: Kind) -> Limits:
    names = {"digitalocean": "dropletsLimit", "aws": "instanceLimit"}
    name = names.get(provider, "machinesLimit")
    limit = keys.optional_number("limit" if keys.has("limit") else name)
    usual = Limits()
    return Limits(
        machines=_whole(limit),
        create_retries=int(keys.at_least("createRetries", 1, usual.create_retries)),
        min_photos=_whole(keys.optional_number("minImages")) or 0,
        photos_per_machine=int(keys.at_least("photosPerMachine", 1, usual.photos_per_machine)),
        grace_s=keys.at_least("createGrace", 1, usual.grace_s),
        boot_s=keys.at_least("bootTimeout", 10, usual.boot_s),
        idle_s=keys.at_least("idleTimeout", 1, usual.idle_s),
        upload_s=keys.optional_number("maxUploadTime", 1),
        runtime_s=keys.optional_number("maxRuntime", 1),
        drain_s=keys.at_least("drainTimeout", 1, usual.drain_s),
        silent_s=keys.at_least("silentTimeout", 10, usual.silent_s),
        dead_man_s=keys.at_least("deadManTimeout", 60, usual.dead_man_s),
        turn_s=keys.at_least("turn", 0.05, 1.0 if kind is Kind.WORKER and provider == "local" else usual.turn_s),
    )


def _boot(keys: Keys, kind: Kind, provider: str) -> Boot:
    usual = Boot()
    registry = keys.table("dockerRegistry")
    if registry.secret("password", required=False) and kind is Kind.NODE:
        raise UsageError(
            "A registry's password would have to travel in the machines' boot data, where others can read it",
            keys.where("dockerRegistry.password"),
            "use an image that needs no login, or a snapshot in which docker is logged in",
        )
    registry.text("username", "")
    registry.text("url", "")
    url = keys.text("url", "").rstrip("/")
    if not url and provider not in {"local"}:
        raise UsageError(
            "Machines must know where the coordinator is",
            keys.where("url"),
            "add url, like https://passel.example.org:3000",
        )
    return Boot(
        url=url,
        workers_url=keys.text("workersUrl", "https://127.0.0.1:3001" if provider == "local" else ""),
        join_command=keys.text("joinCommand", _JOIN_HERE if provider == "local" else _JOIN),
        add_swap=keys.at_least("addSwap", 0, usual.add_swap),
        docker_image=keys.text("dockerImage", usual.docker_image),
        docker_gpu=keys.flag("dockerGpu"),
        engine_install_url=keys.text("engineInstallUrl", usual.engine_install_url).strip('"'),  # as in the samples
        setup_command=keys.text("nodeSetupCmd", ""),
        data_folder=_data_folder(keys),
    )


def _data_folder(keys: Keys) -> str:
    """ClusterODM documents one name and reads another: both are understood."""
    documented = keys.text("dockerDataDirMountPath", "")
    return keys.text("dataDirMountPath", "") or documented


def _budget(keys: Keys, currency: str) -> Budget | None:
    period = keys.text("budgetPeriod", "month")
    if period not in {"month", "total"}:
        raise UsageError(f"Unknown budget period '{period}'", keys.where("budgetPeriod"), "write month or total")
    amount = keys.optional_number("budget")
    return None if amount is None else Budget(amount, currency, period == "month")


def _results(keys: Keys, account: Account) -> Results | None:
    if not keys.has("s3"):
        return None
    s3 = keys.table("s3")
    on_aws = isinstance(account, AwsAccount)  # there the account's own keys open the bucket
    access, secret = s3.secret("accessKey", not on_aws), s3.secret("secretKey", not on_aws)
    if isinstance(account, AwsAccount) and not access:
        access, secret = account.access_key, account.secret_key
    return Results(
        access_key=access,
        secret_key=secret,
        endpoint=s3.text("endpoint"),
        bucket=s3.text("bucket"),
        region=s3.text("region", ""),
        acl=s3.text("acl", "private"),
        verify_tls=not s3.flag("ignoreSSL"),
        prefix=s3.text("prefix", "").strip("/"),
    )


def _remarks(keys: Keys, path: Path, toml: bool, results: Results | None) -> list[str]:
    remarks = [f"{name} is not used by Passel" for name in keys.drop("docker", "webhook")]
    unknown = keys.unknown()
    if unknown and toml:
        raise UsageError(
            f"Unknown keys: {', '.join(unknown)}", str(path), "correct or remove them (docs/cloud.md lists all)"
        )
    remarks += [f"unknown key, ignored: {name}" for name in unknown]
    if results and results.acl not in {"private", "none"}:
        remarks.append(f"s3.acl is {results.acl}: whoever knows or guesses an address can read the results")
    if path.stat().st_mode & _READABLE_BY_OTHERS:
        remarks.append(f"{path.name} can be read by other users of this computer: chmod 600 {path.name}")
    return remarks


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
