"""`passel serve`: its options, and what it tells when it listens."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from urllib.parse import quote

import segno

import passel
from passel.cluster.listening import is_loopback, page_url
from passel.commands.arguments import CommandParser, default_data, folder, positive, whole
from passel.gateway.policy import Engine
from passel.option_table import usable_cores
from passel.serve import Ready, ServeOptions, serve
from passel.server.settings import TestMode

_ABOUT = """Make this computer the coordinator of a passel: it takes photos over the NodeODM API (for WebODM, CloudODM, PyODM
and browsers), maps them here and on every computer that joins, and goes on after any interruption.

Without --listen only this computer can reach it. With --listen 0.0.0.0 others can, with the tokens that are shown then.
"""


def run(words: tuple[str, ...]) -> int:
    """Serve until stopped."""
    logging.basicConfig(format="passel: %(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("passel").setLevel(logging.INFO)
    logging.getLogger("passel.access").setLevel(logging.WARNING)
    serve(options_of(words), lambda ready: print(invitation(ready, sys.stdout.isatty()), flush=True))
    print("passel: stopped. Jobs that were running go on when it is started again.", flush=True)
    return 0


def options_of(words: tuple[str, ...]) -> ServeOptions:
    """The command line, read. Raises UsageError."""
    given = _parser().parse_args(words)
    is_loopback(given.listen)  # refuses what is no address
    tests = {
        name: getattr(given, f"test_{name}") for name in ("seconds", "fail_tasks", "skip_dems", "skip_orthophotos")
    }
    test = TestMode(**tests, drop_uploads=given.test_drop_uploads) if given.test else None
    return ServeOptions(
        data=given.data or default_data(),
        listen=given.listen,
        port=given.port,
        workers_port=given.workers_port,
        worker=not given.no_worker,
        max_concurrency=given.max_concurrency,
        parallel_jobs=given.parallel_jobs,
        token=given.token,
        cleanup_tasks_after_min=given.cleanup_tasks_after,
        max_images=given.max_images,
        test=test,
        name=given.cluster_name,
        fleet=given.fleet,
        engine=Engine(given.engine),
        policy=given.policy,
        nodes=given.nodes,
        public_url=given.public_address.rstrip("/") + "/" if given.public_address else "",
    )


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("serve", _ABOUT)
    add, port = parser.add_argument, whole(0, 65535)
    add("--data", type=folder, metavar="DIR", help=f"where jobs, keys and tokens are kept (default {default_data()})")
    add(
        "--listen",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0: all (default: only here)",
    )
    add("--port", type=port, default=3000, help="port for the API and the web page (default 3000)")
    add("--workers-port", type=port, default=3001, metavar="PORT", help="port for workers (default 3001)")
    add("--no-worker", action="store_true", help="only coordinate; other computers do the work")
    cores = usable_cores()
    add("--max-concurrency", type=whole(1), default=cores, metavar="N", help=f"cores to use here (default {cores})")
    add("--parallel-jobs", type=whole(1, 1000), default=2, metavar="N", help="jobs that run at once (default 2)")
    add("--token", default="", metavar="T", help="an API token of your own choice, besides those of `passel token`")
    minutes = "remove ended tasks after so many minutes, 0: never (default 2880)"
    add("--cleanup-tasks-after", type=whole(0), default=2880, metavar="MIN", help=minutes)
    add("--max-images", type=whole(1), metavar="N", help="refuse tasks with more photos")
    add(
        "--cluster-name",
        default=socket.gethostname(),
        metavar="NAME",
        help="name of this passel (default: this computer's)",
    )
    add(
        "--fleet",
        "--autoscale",
        type=folder,
        metavar="FILE",
        help="rent machines while there is work, as this file says (docs/cloud.md)",
    )
    engines = "who makes maps when there are nodes (passel node): auto: a node that is free, else Passel (default auto)"
    add("--engine", choices=[e.value for e in Engine], default=Engine.AUTO.value, help=engines)
    add("--nodes", type=folder, metavar="FILE", help="add the NodeODM nodes of ClusterODM's nodes.json")
    add("--policy", type=folder, metavar="FILE", help="what each token may do on nodes (docs/clusterodm.md)")
    reached = "this server as nodes reach it, for the parts of split tasks (default http://ADDRESS:PORT)"
    add("--public-address", default="", metavar="URL", help=reached)
    add("--test", action="store_true", help="tasks end at once with small canned products, for authors of clients")
    add("--test-seconds", type=positive, default=0.0, metavar="S", help="with --test: how long a task takes")
    for name in ("fail-tasks", "skip-dems", "skip-orthophotos", "drop-uploads"):
        add(f"--test-{name}", action="store_true", help="with --test: as NodeODM's option")
    return parser


def invitation(ready: Ready, terminal: bool) -> str:
    """What to do now: open the page, submit photos, let other computers join."""
    options, address = ready.options, ready.addresses[0]
    page = page_url(address, ready.port)
    lines = [f"passel {passel.__version__}: {options.name!r} is ready.", "", f"  open     {page}"]
    if is_loopback(options.listen):
        lines += ["           Only this computer can reach it. For others: passel serve --listen 0.0.0.0"]
    else:
        lines += [f"           {also}" for a in ready.addresses[1:3] if (also := f"or {page_url(a, ready.port)}")]
        lines += ["", *_tokens(ready, page)]
    lines += ["", f"  data     {options.data}", "  stop     Ctrl-C; jobs go on when it is started again"]
    if terminal and not is_loopback(options.listen):
        target = page + (f"?token={quote(ready.api_token)}" if ready.api_token else "")
        lines += ["", _qr_code(target)]
    return "\n".join(lines)


def _tokens(ready: Ready, page: str) -> list[str]:
    join = f"passel join https://{_in_url(ready.addresses[0])}:{ready.workers_port} --token "
    bare = f"curl -fsS {page}join | sh -s -- "
    token = ready.join_token or "TOKEN"
    kit = "" if ready.kit else "   (in a minute: its kit is being made)"
    lines = [f"  submit   with the API token {ready.api_token}"] if ready.api_token else []
    lines += ["  more computers join with one line:", f"           {bare}{token}{kit}", f"           {join}{token}"]
    if not ready.join_token:
        lines.append("           TOKEN: as shown at the first start; another one: passel token create --join")
    if not ready.api_token:
        lines.append("           Another API token: passel token create --api")
    return lines


def _qr_code(text: str) -> str:
    from io import StringIO

    drawn = StringIO()
    segno.make(text, micro=False).terminal(drawn, compact=True, border=2)
    return drawn.getvalue().rstrip("\n")


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
