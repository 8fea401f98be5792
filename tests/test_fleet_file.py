"""Fleet files: ClusterODM's JSON as it is, our TOML, and messages for everything that can be wrong in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from passel.errors import UsageError
from passel.fleet.config import AwsAccount, DigitalOceanAccount, HetznerAccount, Kind, ScalewayAccount
from passel.fleet.fleet_file import read_fleet_file

S3 = {"accessKey": "s3-key", "secretKey": "s3-secret", "endpoint": "nyc3.digitaloceanspaces.com", "bucket": "maps"}
SIZES = [{"maxImages": 500, "slug": "large"}, {"maxImages": 40, "slug": "small"}]
# The samples of ClusterODM's documentation, every key that its autoscalers read, with values in the place of CHANGEME!.
SAMPLES: dict[str, dict[str, object]] = {
    "digitalocean": {
        "provider": "digitalocean",
        "accessToken": "do-secret",
        "s3": S3 | {"acl": "public-read", "ignoreSSL": True},
        "createRetries": 3,
        "maxRuntime": -1,
        "maxUploadTime": 3600,
        "dropletsLimit": 30,
        "region": ["nyc3", "sfo2"],
        "monitoring": True,
        "tags": ["clusterodm"],
        "image": "123456",
        "snapshot": True,
        "sshKey": {"fingerprint": "aa:bb", "path": "/root/.ssh/id_rsa"},
        "imageSizeMapping": SIZES,
        "minImages": 10,
        "addSwap": 1,
        "dockerImage": "opendronemap/nodeodm",
        "dockerGpu": False,
        "dockerRegistry": {"username": "", "password": "", "url": ""},
        "engineInstallUrl": "https://releases.rancher.com/install-docker/19.03.sh",
    },
    "aws": {
        "provider": "aws",
        "accessKey": "aws-key",
        "secretKey": "aws-secret",
        "s3": {"endpoint": "s3.us-west-2.amazonaws.com", "bucket": "maps"},
        "securityGroup": "odm",
        "usePrivateAddress": True,
        "assignPrivateAddressOnly": True,
        "monitoring": True,
        "instanceLimit": 12,
        "createRetries": 1,
        "maxRuntime": 86400,
        "region": "us-west-2",
        "zone": "a",
        "vpc": "vpc-1",
        "subnet": "subnet-1",
        "tags": ["type,clusterodm"],
        "ami": "ami-07b4f3c02c7f83d59",
        "engineInstallUrl": '"https://releases.rancher.com/install-docker/19.03.9.sh"',
        "spot": True,
        "imageSizeMapping": [
            {"maxImages": 40, "slug": "t3a.small", "spotPrice": 0.02, "storage": 60},
            {"maxImages": 3500, "slug": "r5.4xlarge", "spotPrice": 1.1, "storage": 2000},
            {"maxImages": 5000, "slug": "r5.4xlarge", "spotPrice": 1.1, "storage": 2500},
        ],
        "addSwap": 1,
        "dockerImage": "opendronemap/nodeodm",
        "iamrole": "node",
        "nodeSetupCmd": "mount /dev/nvme1n1 /mnt",
        "dockerDataDirMountPath": "/mnt/data",
        "sshKey": {"path": "/root/.ssh/id_rsa"},
    },
    "hetzner": {
        "provider": "hetzner",
        "apiToken": "hetzner-secret",
        "s3": S3,
        "createRetries": 1,
        "machinesLimit": 30,
        "location": "fsn1",
        "image": "ubuntu-24.04",
        "snapshot": False,
        "sshKey": {"fingerprint": "aa:bb", "path": "/root/.ssh/id_rsa"},
        "imageSizeMapping": SIZES,
        "minImages": -1,
        "addSwap": 1,
    },
    "scaleway": {
        "provider": "scaleway",
        "organization": "o",
        "secretToken": "scaleway-secret",
        "s3": S3,
        "machinesLimit": -1,
        "region": "par1",
        "image": "ubuntu_noble",
        "imageSizeMapping": SIZES,
    },
}
ADDITION = {"url": "https://passel.example.org:3000"}


def written(folder: Path, table: object, name: str = "asr.json") -> Path:
    path = folder / name
    path.write_text(table if isinstance(table, str) else json.dumps(table))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("provider", SAMPLES)
def test_clusterodms_files_are_read_as_they_are(tmp_path: Path, provider: str) -> None:
    """Only the coordinator's address is added: ClusterODM has it from its command line."""
    config = read_fleet_file(written(tmp_path, SAMPLES[provider] | ADDITION))
    assert config.provider == provider
    assert config.kind is (Kind.NODE if "dockerImage" in SAMPLES[provider] else Kind.WORKER)
    assert [s.max_photos for s in config.sizes] == sorted(s.max_photos for s in config.sizes)
    assert not [r for r in config.remarks if "unknown" in r]
    assert "secret" not in repr(config).replace("secret_", "").replace("(secret)", "")
    account = config.account
    if isinstance(account, DigitalOceanAccount):
        assert (account.token.value, account.ssh_fingerprint, account.image) == ("do-secret", "aa:bb", "123456")
        assert (config.regions, config.limits.machines, config.limits.runtime_s) == (("nyc3", "sfo2"), 30, None)
        assert config.limits.upload_s == 3600
        assert config.limits.min_photos == 10
    elif isinstance(account, AwsAccount):
        assert account.spot
        assert account.tags == (("type", "clusterodm"),)
        assert (config.sizes[0].spot_price, config.sizes[0].storage_gb) == (0.02, 60)
        assert [s.storage_gb for s in config.sizes[1:]] == [2500, 2500], "one machine of a slug is as good as another"
        assert config.results is not None
        assert config.results.access_key.value == "aws-key", "the account's own keys open the bucket"
        assert config.boot.data_folder == "/mnt/data", "the documented name is understood, too"
        assert config.boot.engine_install_url == "https://releases.rancher.com/install-docker/19.03.9.sh"
    elif isinstance(account, HetznerAccount):
        assert config.regions == ("fsn1",)
        assert config.currency == "EUR"
    else:
        assert isinstance(account, ScalewayAccount)
        assert config.regions == ("fr-par-1",)
        assert config.limits.machines is None


def test_results_are_private_unless_told(tmp_path: Path) -> None:
    private = read_fleet_file(written(tmp_path, SAMPLES["hetzner"] | ADDITION))
    assert private.results is not None
    assert private.results.acl == "private"
    public = read_fleet_file(written(tmp_path, SAMPLES["digitalocean"] | ADDITION))
    assert any("s3.acl is public-read" in remark for remark in public.remarks)


def test_toml_is_the_same_in_snake_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_TOKEN", "from-the-environment")
    (tmp_path / "s3.secret").write_text("from-a-file\n")
    path = written(
        tmp_path,
        """
        provider = "digitalocean"
        access_token = { env = "DO_TOKEN" }
        region = ["fra1", "ams3"]
        url = "https://passel.example.org:3000/"
        machines = "worker"
        limit = 6
        budget = 40
        idle_timeout = 120
        photos_per_machine = 300
        [s3]
        access_key = "key"
        secret_key = { file = "s3.secret" }
        endpoint = "fra1.digitaloceanspaces.com"
        bucket = "maps"
        [[image_size_mapping]]
        max_images = 5000
        slug = "c-8"
        price_hour = 0.25
        memory_mb = 16000
        """,
        "fleet.toml",
    )
    config = read_fleet_file(path)
    assert isinstance(config.account, DigitalOceanAccount)
    assert config.account.token.value == "from-the-environment"
    assert config.results is not None
    assert config.results.secret_key.value == "from-a-file"
    assert (config.limits.machines, config.limits.idle_s, config.limits.photos_per_machine) == (6, 120, 300)
    assert config.budget_text == "40 USD a month"
    assert (config.sizes[0].price_hour, config.sizes[0].memory_mb) == (0.25, 16000)
    assert config.boot.url == "https://passel.example.org:3000"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"provider": "azure"}, "Unknown provider 'azure'"),
        ({"apiToken": "CHANGEME!"}, "CHANGEME!"),
        ({"apiToken": ""}, "must be not empty"),
        ({"apiToken": {"env": "NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE is not set"),
        ({"apiToken": {"file": "nowhere"}}, "cannot be read"),
        ({"apiToken": 7}, "A secret is not understood"),
        ({"imageSizeMapping": []}, "No sizes are given"),
        ({"imageSizeMapping": [{"maxImages": 5}]}, "imageSizeMapping[0].slug"),
        ({"imageSizeMapping": [{"slug": "x", "maxImages": -3}]}, "at least 1"),
        ({"imageSizeMapping": [{"slug": "big host", "maxImages": 3}]}, "one word"),
        ({"machinesLimit": "many"}, "must be a number"),
        ({"machinesLimit": -7}, "at least 0, or -1 for none"),
        ({"createRetries": 0}, "at least 1"),
        ({"location": []}, "No place for machines"),
        ({"location": [3]}, "a text or a list of texts"),
        ({"url": ""}, "where the coordinator is"),
        ({"budget": float("nan")}, "must be a number"),
        ({"budgetPeriod": "week"}, "month or total"),
        ({"machines": "ponies"}, "worker or node"),
        ({"dockerImage": "mine", "dockerRegistry": {"password": "x"}}, "registry's password"),
        ({"s3": {"accessKey": "a"}}, "s3.secretKey"),
        ({"addSwap": True}, "must be a number"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_fleet_file(written(tmp_path, SAMPLES["hetzner"] | ADDITION | change))
    assert told in str(caught.value)
    assert "asr.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "\x00\x01", "{} {}"])
def test_garbage_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        read_fleet_file(written(tmp_path, text))
    with pytest.raises(UsageError):
        read_fleet_file(tmp_path / "missing.json")


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    config = read_fleet_file(
        written(tmp_path, SAMPLES["hetzner"] | ADDITION | {"bugdet": 5, "sshKey": {"color": "red"}})
    )
    assert {"unknown key, ignored: bugdet", "unknown key, ignored: sshKey.color"} <= set(config.remarks)
    with pytest.raises(UsageError, match="Unknown keys: bugdet"):
        read_fleet_file(written(tmp_path, 'provider = "local"\nbugdet = 5\n', "fleet.toml"))


def test_a_file_that_others_can_read_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, SAMPLES["hetzner"] | ADDITION)
    path.chmod(0o644)
    assert any("can be read by other users" in remark for remark in read_fleet_file(path).remarks)


def test_local_and_ssh_need_no_sizes(tmp_path: Path) -> None:
    local = read_fleet_file(written(tmp_path, {"provider": "local"}))
    assert [s.slug for s in local.sizes] == ["host"]
    assert "-m passel join" in local.boot.join_command
    hosts = read_fleet_file(written(tmp_path, {"provider": "ssh", "hosts": ["a", "pilot@b"]} | ADDITION))
    assert hosts.regions == ("a", "pilot@b")


def test_a_budget_on_ec2_wants_to_know_what_machines_cost(tmp_path: Path) -> None:
    on_demand = SAMPLES["aws"] | ADDITION | {"spot": False, "budget": 40}
    with pytest.raises(UsageError, match="EC2 does not tell") as told:
        read_fleet_file(written(tmp_path, on_demand))
    assert "priceHour beside each slug" in told.value.todo
    priced = on_demand | {"imageSizeMapping": [{"maxImages": 40, "slug": "c5.2xlarge", "priceHour": 0.34}]}
    assert read_fleet_file(written(tmp_path, priced)).budget is not None
    assert read_fleet_file(written(tmp_path, on_demand | {"spot": True})).budget is not None
    assert read_fleet_file(written(tmp_path, on_demand | {"budget": -1})).budget is None


def test_a_boot_script_that_the_cloud_would_refuse_is_told_before(tmp_path: Path) -> None:
    long = SAMPLES["aws"] | ADDITION | {"nodeSetupCmd": "echo " + "x" * 15_000}
    with pytest.raises(UsageError, match="aws takes 16384"):
        read_fleet_file(written(tmp_path, long))
    read_fleet_file(written(tmp_path, SAMPLES["digitalocean"] | ADDITION | {"nodeSetupCmd": "echo " + "x" * 15_000}))
