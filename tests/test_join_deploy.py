"""The documented ways to start workers elsewhere: what they would run is run, with stand-ins for the scheduler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from passel.commands.join import _parser

DEPLOY = Path(__file__).parent.parent / "docs" / "deploy"
SLURM = DEPLOY / "slurm-join.sh"


def stand_in(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(words: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{folder}:{os.environ['PATH']}"
    environment = {"PATH": path, "TMPDIR": str(folder), **environment}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_slurm_script_starts_a_worker_on_each_node(tmp_path: Path) -> None:
    subprocess.run(["sh", "-n", str(SLURM)], check=True, timeout=60)
    stand_in(tmp_path, "srun", 'shift; exec "$@"')
    stand_in(tmp_path, "passel", 'for word; do echo "$word"; done')
    slurm = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "16", "SLURM_MEM_PER_NODE": "61440"}
    done = run(["sh", str(SLURM)], tmp_path, PASSEL_URL="https://c:3001", PASSEL_JOIN_TOKEN="join_x", **slurm)
    assert done.returncode == 0, done.stderr
    command, *words = done.stdout.splitlines()
    given = _parser().parse_args(words)
    assert (command, given.url, given.workers, given.memory) == ("join", "https://c:3001", 16, 55296)
    assert given.home == tmp_path / "passel-77"
    assert "join_x" not in done.stdout  # the token is not on a command line


def test_the_slurm_script_says_what_is_missing(tmp_path: Path) -> None:
    done = run(["sh", str(SLURM)], tmp_path, PASSEL_URL="https://c:3001")
    assert done.returncode != 0
    assert "passel token create --join" in done.stderr


def test_shellcheck_has_nothing_to_say() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here")
    subprocess.run(["shellcheck", str(SLURM)], check=True, timeout=60)


def test_the_kubernetes_manifest_starts_a_worker(tmp_path: Path) -> None:
    [deployment] = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))
    assert (deployment["apiVersion"], deployment["kind"]) == ("apps/v1", "Deployment")
    spec = deployment["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    assert container["resources"]["requests"] == container["resources"]["limits"]

    work = tmp_path / "work"
    work.mkdir()
    stand_in(tmp_path, "python", "echo 'echo \"$@\"'")  # the script that the coordinator would send
    [script] = container["args"]
    environment = {"COORDINATOR": "http://c:3000", "PASSEL_JOIN_TOKEN": "join_x", "CORES": "4", "MEMORY_MB": "17180"}
    done = run([*container["command"], script.replace("/work/", f"{work}/")], tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    given = _parser().parse_args(done.stdout.split())
    assert (given.workers, given.memory) == (4, 15462)
    names = {e["name"] for e in container["env"]}
    assert set(re.findall(r"\$\(?\(?([A-Z_]+)", script)) <= names
