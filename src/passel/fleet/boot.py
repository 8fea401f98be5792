"""The script a machine runs when it starts.

It holds one secret only: a token that lets this one machine join once (or, on nodes, the node's own token). It makes swap,
starts the worker or the node, and carries a dead man's switch: when the coordinator cannot be reached for long, or the
machine is older than it may be, it switches itself off. A spot machine watches for its cloud's notice and leaves in order.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from passel.errors import UsageError
from passel.fleet.config import FleetConfig, Kind

NODE_PORT = 3000
_OWN = {"local", "ssh"}
"""Providers whose machines are computers of the user: nothing is installed there and nothing switched off."""
_LIFE_MARGIN_S = 600.0
_MOST_BYTES = {"aws": 16 << 10, "hetzner": 32 << 10, "digitalocean": 64 << 10}
"""What a cloud takes as user-data."""


@dataclass(frozen=True)
class Newcomer:
    """What a boot script knows of its machine."""

    name: str
    fleet: str
    token: str
    """The join token; for a node, the token its API will ask for."""


def boot_script(newcomer: Newcomer, config: FleetConfig) -> str:
    """A POSIX shell script. It stays in the foreground; cloud-init runs it as root, `local` and `ssh` as the user."""
    own = config.provider in _OWN
    parts = [
        _head(newcomer, config),
        _POWER_OFF_OWN if own else _POWER_OFF,
        _dead_man(config),
        "" if own else _swap(config.boot.add_swap),
        config.boot.setup_command,
        _SPOT_WATCH if config.spot and config.kind is Kind.WORKER else "",
        _node(newcomer, config) if config.kind is Kind.NODE else _worker(newcomer, config),
    ]
    return "\n".join(part.strip("\n") for part in parts if part) + "\n"


def check_length(config: FleetConfig) -> None:
    """UsageError when the cloud would refuse every machine, since its boot script is too long."""
    size = len(boot_script(Newcomer("passel-00000000-0000000000-00000000", "00000000", "t" * 100), config).encode())
    most = _MOST_BYTES.get(config.provider)
    if most is not None and size > most:
        what = f"The boot script has {size} bytes, and {config.provider} takes {most}"
        raise UsageError(what, todo="shorten nodeSetupCmd or joinCommand: let them fetch what they need")


def _head(newcomer: Newcomer, config: FleetConfig) -> str:
    return f"""#!/bin/sh
# Passel machine {newcomer.name}. The only secret in here is a token for this one machine.
set -u
umask 077
export PASSEL_MACHINE={shlex.quote(newcomer.name)}
export PASSEL_FLEET={shlex.quote(newcomer.fleet)}
export PASSEL_URL={shlex.quote(config.boot.url)}
export PASSEL_WORKERS_URL={shlex.quote(config.boot.workers_url)}
export PASSEL_MACHINE_HOME="${{PASSEL_MACHINE_HOME:-/var/lib/passel}}"
export PASSEL_TOKEN_FILE="$PASSEL_MACHINE_HOME/token"
export HOME="${{HOME:-/root}}"
mkdir -p "$PASSEL_MACHINE_HOME"
"""


_POWER_OFF = """
power_off() {
    echo "passel: switching off: $1" >&2
    shutdown -h now || poweroff -f
}
"""

_POWER_OFF_OWN = """
power_off() {
    echo "passel: ending: $1" >&2
    kill -KILL 0
}
"""


# EC2 tells a spot machine two minutes before it takes it back (IMDSv2; 404 until then). The worker's one process, `passel join`,
# is asked to finish and leave, and is not started again; other workers of this computer are none of ours.
_SPOT_WATCH = """
notice() {
    base="${PASSEL_METADATA_URL:-http://169.254.169.254}/latest"
    session=$(curl -fsS -m 2 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 300" "$base/api/token" 2>/dev/null) &&
        curl -fsS -m 2 -H "X-aws-ec2-metadata-token: $session" "$base/meta-data/spot/instance-action" 2>/dev/null
}
workers() {
    for place in /proc/[0-9]*; do
        tr '\\0' '\\n' <"$place/environ" 2>/dev/null | grep -qxF "PASSEL_MACHINE=$PASSEL_MACHINE" || continue
        tr '\\0' ' ' <"$place/cmdline" 2>/dev/null | grep -q 'passel join ' && echo "${place#/proc/}"
    done
}
spot_watch() {
    until words=$(notice); do sleep 5; done
    echo "passel: the cloud takes this machine back: $words" >&2
    : >"$PASSEL_MACHINE_HOME/leaving"
    for worker in $(workers); do kill -TERM "$worker"; done
}
spot_watch &
"""


def _dead_man(config: FleetConfig) -> str:
    """Time is the kernel's: the clock may jump when it is set. Any answer of the coordinator will do."""
    if not config.boot.url:
        return ""
    limits = config.limits
    pause_s = max(1, min(30, int(limits.dead_man_s / 10)))
    oldest = ""
    if limits.runtime_s is not None:
        oldest_s = int(limits.runtime_s + limits.drain_s + _LIFE_MARGIN_S)
        oldest = f'        [ "$(seconds)" -lt "$((born + {oldest_s}))" ] || power_off "too old"\n'
    return f"""
seconds() {{
    if read -r up rest 2>/dev/null </proc/uptime; then echo "${{up%%.*}}"; else date +%s; fi
}}
dead_man() {{
    born=$(seconds)
    heard=$born
    while sleep {pause_s}; do
        if curl -fsSk -m 20 -o /dev/null "$PASSEL_URL/auth/info" 2>/dev/null; then heard=$(seconds); fi
        [ "$(seconds)" -lt "$((heard + {int(limits.dead_man_s)}))" ] || power_off "the coordinator is silent"
{oldest}    done
}}
dead_man &
"""


def _swap(times: float) -> str:
    if times <= 0:
        return ""
    return f"""
swap_mb=$(awk '/^MemTotal/ {{ print int($2 / 1024 * {times:g}) }}' /proc/meminfo)
if [ "$swap_mb" -gt 0 ] && [ ! -e "$PASSEL_MACHINE_HOME/swap" ]; then
    (fallocate -l "${{swap_mb}}M" "$PASSEL_MACHINE_HOME/swap" || dd if=/dev/zero of="$PASSEL_MACHINE_HOME/swap" bs=1M count="$swap_mb") &&
        mkswap "$PASSEL_MACHINE_HOME/swap" && swapon "$PASSEL_MACHINE_HOME/swap" || rm -f "$PASSEL_MACHINE_HOME/swap"
fi
"""


def _worker(newcomer: Newcomer, config: FleetConfig) -> str:
    """A worker that ends is started again: the link may have been away. printf is built in, so the token is in no process list."""
    return f"""
printf '%s' {shlex.quote(newcomer.token)} >"$PASSEL_TOKEN_FILE"
join() {{
    export PASSEL_JOIN_TOKEN="$(cat "$PASSEL_TOKEN_FILE")"
{config.boot.join_command}
}}
until [ -e "$PASSEL_MACHINE_HOME/leaving" ]; do
    (join)
    sleep 5
done
power_off "its work is handed back"
"""


def _node(newcomer: Newcomer, config: FleetConfig) -> str:
    """The node's token goes in by a file: arguments of docker can be read by every user of the machine."""
    boot = config.boot
    settings = json.dumps({"token": newcomer.token, "parallelQueueProcessing": 1, "port": NODE_PORT})
    gpus = "--gpus all " if boot.docker_gpu else ""
    data = f"-v {shlex.quote(boot.data_folder)}:/var/www/data " if boot.data_folder else ""
    return f"""
command -v docker >/dev/null || curl -fsSL {shlex.quote(boot.engine_install_url)} | sh
printf '%s' {shlex.quote(settings)} >"$PASSEL_MACHINE_HOME/node.json"
until docker run -d --name passel-node --restart unless-stopped -p {NODE_PORT}:{NODE_PORT} {gpus}{data}\\
    -v "$PASSEL_MACHINE_HOME/node.json:/var/www/passel-node.json:ro" {shlex.quote(boot.docker_image)} --config /var/www/passel-node.json; do
    sleep 15
done
wait
"""
