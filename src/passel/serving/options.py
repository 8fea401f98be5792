"""What `passel serve` is asked for, and what it tells when it listens: the records between the command line and serve.py beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passel.cluster.coordinator.listening import is_loopback, reachable_addresses
from passel.gateway.policy import Engine
from passel.server.settings import ServerSettings

JOIN_TOKEN_DAYS = 7
"""How long the join token of a start is good: a slip of paper with it must not open the passel for ever."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files for HTTPS on the public port. certificate: with the chain. key: not encrypted."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class ServeOptions:
    """What `passel serve` was asked for.

    server: the API's part. listen: the address to listen on. worker: start a worker on this machine. cores: that it may use.
    token: an API token of the user's own choice, '' = none. name: of this passel, for people. fleet: the fleet file, None = no
    machines in the cloud. engine: who makes maps when there are NodeODM nodes. policy: what each token may do there. nodes: a
    nodes.json of ClusterODM. public_url: of the public port as nodes reach it, '' = by its address. tls: None = plain HTTP.
    host_name: the public name of this server for people and other machines, '' = its address. artifact_store: the URL of the
    bucket for artifacts, '' = none. artifact_endpoint: of its service, '' = as the environment says, or Amazon's.
    command: how `passel` was typed. data_words: what further commands need to find this data folder, '' when it is the usual one.
    """

    server: ServerSettings
    listen: str
    port: int
    workers_port: int
    worker: bool
    cores: int
    token: str
    name: str
    fleet: Path | None = None
    engine: Engine = Engine.AUTO
    policy: Path | None = None
    nodes: Path | None = None
    public_url: str = ""
    tls: TlsFiles | None = None
    host_name: str = ""
    artifact_store: str = ""
    artifact_endpoint: str = ""
    command: str = "passel"
    data_words: str = ""

    def typed(self, words: str) -> str:
        """A command for this passel as its operator can type it here."""
        return f"{self.command} {words}{self.data_words}"

    @property
    def is_test(self) -> bool:
        """Canned tasks: nobody works."""
        return self.server.test is not None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.listen)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Under which others may reach it, the likeliest first."""
        return reachable_addresses(self.listen)

    @property
    def hosts(self) -> tuple[str, ...]:
        """What people are told to type: the name, if there is one, since certificates are made for names; then addresses."""
        return ((self.host_name,) if self.host_name else ()) + self.addresses

    def page(self, port: int, host: str = "") -> str:
        """The web page's URL for people. port: the one it listens on. host: the likeliest if none is given."""
        shown = host or self.hosts[0]
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://{f'[{shown}]' if ':' in shown else shown}:{port}/"


@dataclass(frozen=True)
class Ready:
    """What the user must know once it listens. hosts: names and addresses of this machine, the likeliest first.

    join_token, api_token: made just now, '' when there are usable ones already. kit: whether the field kit is ready.
    moved: whether this was told before, with another address.
    """

    options: ServeOptions
    port: int
    workers_port: int
    hosts: tuple[str, ...]
    join_token: str
    api_token: str
    kit: bool
    moved: bool = False
