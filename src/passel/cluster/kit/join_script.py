"""The shell script that makes a bare computer with Python a worker: `curl http://coordinator:3000/join | sh -s -- TOKEN`.

It takes everything from the kit, which is at the coordinator or in the script's own folder, and nothing from elsewhere.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import passel
from passel.cluster.kit.bundle import BundleError

_TEMPLATE = r"""#!/bin/sh
# Makes this computer a worker of a Passel: a virtual environment of its own, the software from the coordinator's kit,
# then `passel join`. Run it again to join again; what is installed already is not installed twice. To undo, remove
# the folder that it names.
set -eu
aside= # not one from outside

kit=@KIT@
coordinator=@COORDINATOR@
version=@VERSION@
pip_wheel=@PIP@
pythons=@PYTHONS@
machines=@MACHINES@

fail() {
  [ -z "$aside" ] || rm -rf "$aside" # half an installation keeps no room
  echo "passel: error: $1" >&2
  exit 1
}

find_python() {
  for wanted in $pythons; do
    for candidate in "python$wanted" python3 python; do
      if "$candidate" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')" 2>/dev/null; then
        python=$candidate
        return
      fi
    done
  done
  fail "this computer has no Python of the coordinator's version: install Python $pythons (with venv)"
}

# Whether there is something in the folder that this script has not put there: it leaves pip's wheel in its own.
holds_something_else() {
  [ -n "$(ls -A "$home" 2>/dev/null)" ] && ! ls "$home"/pip-*.whl >/dev/null 2>&1
}

is_installed() {
  "$home/bin/python" -m passel --version 2>/dev/null | grep -qx "passel $version"
}

# A rename and nothing else: `mv` would move it into a folder that is there by now.
put_in_place() {
  "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$aside" "$home" 2>/dev/null
}

# Whoever is first puts it in place; other processes, also of other computers that share the folder, may be at it as well.
install_passel() {
  if holds_something_else; then
    echo "passel: error: $home holds something else: set PASSEL_HOME to a new folder for the software" >&2
    exit 1
  fi
  find_python
  echo "Installing Passel $version into $home: about 1.2 GB, a minute or two, once." >&2
  for left in "$home.new-$(uname -n)"-*; do # by one that was killed
    kill -0 "${left##*-}" 2>/dev/null || rm -rf "$left"
  done
  aside="$home.new-$(uname -n)-$$"
  trap 'fail "interrupted: nothing is installed"' HUP INT TERM
  mkdir -p "$aside" || fail "$aside cannot be made: set PASSEL_HOME to a folder that can be written"
  "$python" -m venv --without-pip "$aside" || fail "no environment can be made in $aside: a full disk?"
  "$aside/bin/python" - "$kit$pip_wheel" "$aside/$pip_wheel" <<'FETCH' || fail "the kit at $kit cannot be read"
import shutil, sys, urllib.error, urllib.request
source, target = sys.argv[1:]
try:
    opened = urllib.request.urlopen(source, timeout=60) if "://" in source else open(source, "rb")
    with opened as i, open(target, "wb") as o:
        shutil.copyfileobj(i, o)
except (OSError, urllib.error.URLError) as e:
    sys.exit(f"{source}: {e}")
FETCH
  host=${kit#*://}
  host=${host%%/*} # empty for a folder
  PIP_CONFIG_FILE=/dev/null "$aside/bin/python" "$aside/$pip_wheel/pip" install --quiet --no-cache-dir \
    --disable-pip-version-check --no-index --find-links "$kit" --trusted-host "${host:-localhost}" "passel==$version" \
    || fail "Passel cannot be installed from $kit: see above; a full disk, or a kit for other machines?"
  # Scripts of the environment name the folder that they were made in, so passel is run by its Python.
  put_in_place || is_installed || { rm -rf "$home" && put_in_place; } || fail "$aside cannot be renamed to $home"
  rm -rf "$aside" # another one was first
  trap - HUP INT TERM
}

main() {
  here="$(uname -s) $(uname -m)"
  case "$machines" in
    *"[$here]"*) ;;
    *) fail "the kit is for $machines, this computer is [$here]: run \`passel bundle\` on such a computer" ;;
  esac
  data=${XDG_DATA_HOME:-${HOME:+$HOME/.local/share}} # a service may run without a home
  home=${PASSEL_HOME:-${data:+$data/passel/software-$version}}
  [ -n "$home" ] || fail "there is no home folder: set PASSEL_HOME to a folder for the software"
  case "${1:-}" in
    "" | -*) ;;
    *)
      PASSEL_JOIN_TOKEN=$1
      shift
      export PASSEL_JOIN_TOKEN # not on a command line, which others could see
      ;;
  esac
  is_installed || install_passel
  # shellcheck disable=SC2086 # no coordinator is no word
  exec "$home/bin/python" -m passel join $coordinator "$@" </dev/null
}

main "$@"
"""


@dataclass(frozen=True)
class Kit:
    """What a folder of wheels is good for. pip: the name of pip's wheel. pythons: like 3.11. machines: like [Linux x86_64]."""

    pip: str
    pythons: tuple[str, ...]
    machines: tuple[str, ...]

    @staticmethod
    def of(folder: Path) -> Kit:
        """Read from the wheels' names. Raises BundleError if the kit is not whole."""
        names = sorted(w.name for w in folder.glob("*.whl"))
        pip = next((n for n in names if n.startswith("pip-")), "")
        pythons = {f"3.{m[1]}" for n in names if (m := re.search(r"-cp3(\d+)-cp3\1-", n))}
        platforms = {p for n in names for p in n.removesuffix(".whl").split("-")[-1].split(".") if p != "any"}
        machines = {_machine(p) for p in platforms} - {""}
        if not pip or not pythons or not machines:
            raise BundleError("the folder holds no whole kit", str(folder), "passel bundle --output " + str(folder))
        return Kit(pip, tuple(sorted(pythons, key=_minor, reverse=True)), tuple(sorted(machines)))


def join_script(kit: Kit, kit_place: str, coordinator: str) -> str:
    """The script. kit_place: URL or folder of the wheels, ending in '/'. coordinator: its workers' port, '' = look for it."""
    values = {
        "KIT": kit_place,
        "COORDINATOR": coordinator,
        "VERSION": passel.__version__,
        "PIP": kit.pip,
        "PYTHONS": " ".join(kit.pythons),
        "MACHINES": " ".join(f"[{m}]" for m in kit.machines),
    }
    return re.sub("@([A-Z]+)@", lambda m: shlex.quote(values[m[1]]), _TEMPLATE)


def script_beside_kit(kit: Kit) -> str:
    """The script for a kit that is carried on a stick: it lies beside the wheels and looks for the coordinator itself."""
    script = join_script(kit, "", "")
    return script.replace("\nkit=''\n", '\nkit=$(cd "$(dirname "$0")" && pwd)/\n', 1)


def _machine(platform: str) -> str:
    """`uname -s` and `-m` of a wheel's platform: 'Linux x86_64' of manylinux_2_28_x86_64; '' for what is not served."""
    linux = re.fullmatch(r"(?:manylinux\w*?|linux)_(?:\d+_\d+_)?(x86_64|aarch64)", platform)
    if linux:
        return f"Linux {linux[1]}"
    mac = re.fullmatch(r"macosx_\d+_\d+_(x86_64|arm64)", platform)
    return f"Darwin {mac[1]}" if mac else ""


def _minor(python: str) -> int:
    return int(python.partition(".")[2])
