"""Garbage for the server, for minutes: tests/test_server_fuzz.py again and again with other seeds, until the time is up.

python bench/server_fuzz.py [--minutes 10] [--results DIR]
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from results import Check, SurveyResult
from run import about

NAME = "server_fuzz"
TESTS = Path(__file__).parent.parent / "tests" / "test_server_fuzz.py"
EXAMPLES_A_ROUND = 400
HARNESS = "hypothesis (forms, JSON, archives, names, ranges, events) and schemathesis (requests to a running server)"


def play_round() -> tuple[Counter[str], list[str], str]:
    """(examples tried by test, names of tests that failed, all that was said)."""
    words = [sys.executable, "-m", "pytest", str(TESTS), "--hypothesis-show-statistics", "-s", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PASSEL_FUZZ_EXAMPLES": str(EXAMPLES_A_ROUND)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    examples: Counter[str] = Counter()
    test = ""
    for line in done.stdout.splitlines():
        if match := re.match(r"tests/\S+::(\w+):", line):
            test = match[1]
        elif match := re.search(r"(\d+) passing, (\d+) failing, and (\d+) invalid", line):
            examples[test] += sum(map(int, match.groups()))
        elif match := re.match(r"requests: (\d+)", line):
            examples["requests to a running server"] += int(match[1])
    failed = re.findall(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 and not failed:
        failed = [f"pytest ended with {done.returncode}"]
    return examples, failed, done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    examples: Counter[str] = Counter()
    findings: list[str] = []
    begun_s, rounds = time.monotonic(), 0
    while time.monotonic() - begun_s < 60 * given.minutes:
        tried, failed, said = play_round()
        examples += tried
        findings += failed
        rounds += 1
        if failed:
            print(said, flush=True)
        print(f"round {rounds}: {tried.total()} examples, failed: {', '.join(failed) or 'none'}", flush=True)
    note = f"{HARNESS}; {rounds} rounds of other seeds"
    minutes = (time.monotonic() - begun_s) / 60
    checks = [
        Check("fuzz", "time", minutes, "min", "≥", 10.0, note),
        Check("fuzz", "findings", float(len(findings)), "tests", "=", 0.0, ", ".join(sorted(set(findings)))),
        Check("fuzz", "bodies, archives, requests tried", float(examples.total()), "examples"),
        *(Check("fuzz", test, float(count), "examples") for test, count in sorted(examples.items())),
    ]
    SurveyResult(NAME, about(), "", tuple(checks), ()).save(given.results)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
