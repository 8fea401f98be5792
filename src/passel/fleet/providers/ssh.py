"""Own hosts over ssh, each good for one machine of the fleet at a time. The hosts are the regions.

A machine is a process group on its host whose leader wrote its number into a folder named after it. The boot script,
with the token in it, travels through ssh's standard input, so no argument list shows it.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence

from passel.fleet.config import SshAccount
from passel.fleet.machine import (
    Listing,
    MachineSeen,
    NoCapacityError,
    Order,
    Power,
    Price,
    ProviderError,
    UncertainError,
)

_LIMIT_S = 60.0
_TAKEN = 75
_HOME = "$HOME/.cache/passel-machines"

_CREATE = f"""
set -eu
umask 077
home="{_HOME}"
mkdir -p "$home"
for other in "$home"/*/pid; do
    [ -e "$other" ] || continue
    folder=$(dirname "$other")
    if kill -s 0 -- "-$(cat "$other")" 2>/dev/null; then
        [ "$(basename "$folder")" = NAME ] && exit 0
        exit {_TAKEN}
    fi
    rm -rf "$folder"
done
mkdir -p "$home"/NAME
cat >"$home"/NAME/boot.sh
printf '%s' FLEET >"$home"/NAME/fleet
printf '%s' SIZE >"$home"/NAME/size
export PASSEL_MACHINE_HOME="$home"/NAME
cd "$home"/NAME
setsid sh -c 'echo $$ >pid; exec sh boot.sh' >log.txt 2>&1 </dev/null &
"""

_LIST = f"""
for file in "{_HOME}"/*/pid; do
    [ -e "$file" ] || continue
    folder=$(dirname "$file")
    kill -s 0 -- "-$(cat "$file")" 2>/dev/null || continue
    echo "$(basename "$folder") $(cat "$folder/fleet") $(cat "$folder/size") $(($(date +%s) - $(date -r "$file" +%s)))"
done
"""

_DESTROY = f"""
folder="{_HOME}"/NAME
[ -e "$folder/pid" ] && kill -s KILL -- "-$(cat "$folder/pid")" 2>/dev/null
strays=$(grep -lxz "PASSEL_MACHINE="NAME /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)
[ -z "$strays" ] || kill -s KILL $strays 2>/dev/null
rm -rf "$folder"
"""
"""Processes that made a session of their own are found by their environment (on Linux)."""


class SshProvider:
    """Needs `ssh HOST` to work without a question, and a POSIX shell with setsid on the host."""

    name = "ssh"

    def __init__(self, account: SshAccount) -> None:
        self._account = account

    def create(self, order: Order) -> str:
        """See `Provider`."""
        words = {"NAME": order.name, "FLEET": order.fleet, "SIZE": order.size}
        answer = self._run(order.region, _filled(_CREATE, words), order.boot_script)
        if answer.returncode == _TAKEN:
            raise NoCapacityError(f"{order.region} has a machine already", todo="the next host is tried")
        if answer.returncode != 0:
            raise _problem("start a machine", order.region, answer)
        return order.name

    def list(self, fleet: str, regions: Sequence[str]) -> Listing:
        """Each host is asked; one that does not answer hides nothing of the others."""
        machines: list[MachineSeen] = []
        silent: dict[str, ProviderError] = {}
        for host in regions:
            try:
                answer = self._run(host, _LIST)
            except ProviderError as error:
                silent[host] = error
                continue
            if answer.returncode != 0:
                silent[host] = _problem("list machines", host, answer)
                continue
            machines += _read(answer.stdout, host, fleet)
        if silent and len(silent) == len(regions):
            raise next(iter(silent.values()))
        return Listing(tuple(machines), frozenset(silent))

    def destroy(self, machine_id: str, region: str) -> None:
        """See `Provider`."""
        answer = self._run(region, _filled(_DESTROY, {"NAME": machine_id}))
        if answer.returncode != 0:
            raise _problem("end a machine", region, answer)

    def price(self, size: str, region: str) -> Price | None:
        """Own machines cost nothing that we know of."""
        return Price(0.0, "", "own machine")

    def _run(self, host: str, script: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self._account.command, host, f"sh -c {shlex.quote(script)}"]
        try:
            return subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=_LIMIT_S, check=False, errors="replace"
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UncertainError(
                f"{host} did not answer: {type(error).__name__}", todo="check that ssh works"
            ) from error


def _filled(script: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        script = script.replace(word, shlex.quote(value))
    return script


def _read(text: str, host: str, fleet: str) -> list[MachineSeen]:
    machines = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 4 and words[3].lstrip("-").isdigit() and (not fleet or words[1] == fleet):
            name, _, size, age = words
            made_s = time.time() - max(0, int(age))  # the host's clock may have been set back
            machines.append(MachineSeen(name, name, size, host, Power.ON, made_s, host.rpartition("@")[2]))
    return machines


def _problem(doing: str, host: str, answer: subprocess.CompletedProcess[str]) -> ProviderError:
    last = answer.stderr.strip().splitlines()[-1:] or [f"exit code {answer.returncode}"]
    return UncertainError(f"{host} could not {doing}: {last[0][:200]}", todo="check that ssh works")
