"""A whole passel of real processes in a folder: a coordinator, workers, drivers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from passel.cluster.trust.authority import Authority

TESTS = Path(__file__).parent


@dataclass
class Passel:
    """Everything ends with `close`."""

    folder: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    port: int = 0

    @property
    def socket(self) -> Path:
        return self.folder / "driver.sock"

    def coordinator(self) -> subprocess.Popen[str]:
        """Starts it, at the port that it had before."""
        process = self._start([str(TESTS / "coordinator_process.py"), str(self.folder), "127.0.0.1", str(self.port)])
        assert process.stdout is not None
        self.port = int(process.stdout.readline())
        return process

    def worker(self, name: str, *words: str) -> subprocess.Popen[str]:
        identity = Authority.open(self.folder / "ca").issue(self.folder / name, name).folder
        url = f"https://127.0.0.1:{self.port}"
        places = ["--identity", str(identity), "--cache", str(self.folder / f"{name}-cache")]
        return self._start(
            ["-m", "passel.cluster.worker.agent_process", "--url", url, *places, "--memory", "4000", *words]
        )

    def driver(
        self, photos: Path, output: Path, *options: str, job: str = "job-1", lifeline: int = -1
    ) -> subprocess.Popen[str]:
        file = self.folder / "options.json"
        file.write_text(json.dumps(options))
        words = ["--socket", self.socket, "--job", job, "--photos", photos, "--output", output, "--options", file]
        return self._start(
            ["-m", "passel.cluster.driver.driver", *map(str, words), "--lifeline", str(lifeline)],
            (lifeline,) if lifeline >= 0 else (),
        )

    def _start(self, words: list[str], handles: tuple[int, ...] = ()) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])},
            start_new_session=True,
            pass_fds=handles,
        )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self.processes):
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
