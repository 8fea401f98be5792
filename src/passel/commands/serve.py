"""`passel serve`: its options, and what it tells when it listens."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import segno

import passel
from passel.cluster.coordinator.listening import is_loopback
from passel.commands.arguments import CommandParser, default_data, folder, own_command, positive, whole, with_data
from passel.commands.nodeodm_words import in_our_words
from passel.errors import UsageError
from passel.gateway.policy import Engine
from passel.option_table import usable_cores
from passel.server.buckets import bucket_prefix
from passel.server.jobs import JobError
from passel.server.outgoing import Gate
from passel.server.settings import ServerSettings, TestMode
from passel.serving.options import JOIN_TOKEN_DAYS, Ready, ServeOptions, TlsFiles
from passel.serving.serve import serve

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
    given = _parser().parse_args(in_our_words(words))
    is_loopback(given.listen)  # refuses what is no address
    if given.port == given.workers_port != 0:
        raise UsageError(f"--port and --workers-port are both {given.port}", todo="they must differ")
    host_names = tuple(name.lower().rstrip(".") for name in given.host_name)
    return ServeOptions(
        server=_server_settings(given, host_names),
        listen=given.listen,
        port=given.port,
        workers_port=given.workers_port,
        worker=not given.no_worker,
        cores=given.cores,
        token=given.token,
        name=given.cluster_name,
        fleet=given.fleet,
        engine=Engine(given.engine),
        policy=given.policy,
        nodes=given.nodes,
        public_url=given.public_address.rstrip("/") + "/" if given.public_address else "",
        tls=_tls(given.tls_cert, given.tls_key),
        host_name=next(iter(host_names), ""),
        artifact_store=given.artifact_store,
        artifact_endpoint=given.artifact_store_endpoint,
        command=own_command(),
        data_words=with_data(given.data),
    )


def _server_settings(given: argparse.Namespace, host_names: tuple[str, ...]) -> ServerSettings:
    tests = {
        name: getattr(given, f"test_{name}")
        for name in ("seconds", "fail_tasks", "skip_dems", "skip_orthophotos", "drop_uploads")
    }
    settings = ServerSettings(
        given.data or default_data(),
        parallel_jobs=given.parallel_jobs,
        cleanup_tasks_after_s=60.0 * given.cleanup_tasks_after,
        cleanup_uploads_after_s=60.0 * given.cleanup_uploads_after,
        max_runtime_s=60.0 * max(0, given.max_runtime),
        webhook=given.webhook,
        max_concurrency=given.max_concurrency,
        allow_private_urls=given.allow_private_urls,
        buckets=tuple(given.bucket),
        host_names=frozenset(host_names),
        test=TestMode(**tests) if given.test else None,
    )
    return replace(settings, limits=replace(settings.limits, max_images=given.max_images or None))


def _tls(certificate: Path | None, key: Path | None) -> TlsFiles | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key belong together", todo="give both")
    return TlsFiles(certificate, key)


def _webhook(text: str) -> str:
    """The operator's own, so it may be in the local network."""
    try:
        if text:
            Gate(allow_private=True).check(text)
    except JobError as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text


def _bucket(text: str) -> str:
    try:
        return bucket_prefix(text)
    except JobError as e:
        raise argparse.ArgumentTypeError(str(e)) from None


def _host_name(text: str) -> str:
    if not text or not all(c.isalnum() or c in "-._" for c in text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a host, like maps.example.org")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser("serve", _ABOUT)
    _add_where(parser)
    _add_work(parser)
    _add_clients(parser)
    _add_others(parser)
    _add_test(parser)
    return parser


def _add_where(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it listens")
    add, port = group.add_argument, whole(0, 65535)
    listen = "address to listen on; 0.0.0.0: all (default: only here)"
    add("--data", type=folder, metavar="DIR", help=f"where jobs, keys and tokens are kept (default {default_data()})")
    add("--listen", default="127.0.0.1", metavar="ADDRESS", help=listen)
    add("--port", "-p", type=port, default=3000, help="port for the API and the web page (default 3000)")
    add("--workers-port", type=port, default=3001, metavar="PORT", help="port for workers (default 3001)")
    add(
        "--tls-cert",
        type=folder,
        metavar="PEM",
        help="HTTPS on --port: certificate with its chain; followed when renewed",
    )
    add("--tls-key", type=folder, metavar="PEM", help="its key")
    names = "public name of this server, for what it tells people to type; may be repeated"
    add("--host-name", type=_host_name, action="append", default=[], metavar="NAME", help=names)
    add(
        "--cluster-name", default=socket.gethostname(), metavar="NAME", help="of this passel (default: this computer's)"
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    group, cores = parser.add_argument_group("the work"), usable_cores()
    add = group.add_argument
    add("--no-worker", action="store_true", help="only coordinate; other computers do the work")
    add("--cores", type=whole(1), default=cores, metavar="N", help=f"cores to use on this computer (default {cores})")
    at_once = "jobs that run at once (default 2)"
    add(
        "--parallel-jobs",
        "--parallel-queue-processing",
        "-q",
        type=whole(1, 1000),
        default=2,
        metavar="N",
        help=at_once,
    )
    add(
        "--max-concurrency",
        type=whole(0),
        default=0,
        metavar="N",
        help="cores of all computers that a job may use, 0: all",
    )
    add("--max-runtime", type=whole(-1), default=0, metavar="MIN", help="a task that runs longer fails, 0: none does")
    minutes = "remove ended tasks after so many minutes, 0: never (default 2880)"
    add("--cleanup-tasks-after", type=whole(0), default=2880, metavar="MIN", help=minutes)
    minutes = "and uploads that were not completed (default 2880)"
    add("--cleanup-uploads-after", type=whole(0), default=2880, metavar="MIN", help=minutes)
    store = "keep what workers make in this bucket, as s3://BUCKET/PREFIX, with the credentials of the environment"
    add("--artifact-store", default="", metavar="URL", help=store)
    add("--artifact-store-endpoint", default="", metavar="URL", help="of a service like S3 (default: Amazon's)")


def _add_clients(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what clients may").add_argument
    add("--token", default="", metavar="T", help="an API token of your own choice, besides those of `passel token`")
    add("--max-images", type=whole(0), default=0, metavar="N", help="refuse tasks with more photos, 0: none")
    add("--webhook", type=_webhook, default="", metavar="URL", help="call it at the end of every task")
    private = "photos by URL and webhooks of clients may lead into the local network"
    add("--allow-private-urls", action="store_true", help=private)
    bucket = (
        "clients may have photos fetched from there with this server's credentials, as s3://surveys/; may be repeated"
    )
    add("--bucket", type=_bucket, action="append", default=[], metavar="URL", help=bucket)


def _add_others(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("cloud machines and NodeODM nodes").add_argument
    rent = "rent machines while there is work, as this file says (docs/cloud.md)"
    add("--fleet", "--autoscale", type=folder, metavar="FILE", help=rent)
    engines = "who makes maps when there are nodes (passel node): auto: a node that is free, else Passel (default auto)"
    add("--engine", choices=[e.value for e in Engine], default=Engine.AUTO.value, help=engines)
    add("--nodes", type=folder, metavar="FILE", help="add the NodeODM nodes of ClusterODM's nodes.json")
    add("--policy", type=folder, metavar="FILE", help="what each token may do on nodes (docs/clusterodm.md)")
    reached = "this server as nodes reach it, for the parts of split tasks (default http://ADDRESS:PORT)"
    add("--public-address", default="", metavar="URL", help=reached)


def _add_test(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("for authors of clients").add_argument
    add("--test", action="store_true", help="tasks end at once with small canned products")
    add("--test-seconds", type=positive, default=0.0, metavar="S", help="with --test: how long a task takes")
    for name in ("fail-tasks", "skip-dems", "skip-orthophotos", "drop-uploads"):
        add(f"--test-{name}", action="store_true", help="with --test: as NodeODM's option")


def invitation(ready: Ready, terminal: bool) -> str:
    """What to do now: open the page, submit photos, let other computers join."""
    options = ready.options
    page = options.page(ready.port, ready.hosts[0])
    news = "has another address now." if ready.moved else "is ready."
    lines = [f"passel {passel.__version__}: {options.name!r} {news}", "", f"  open     {page}"]
    if options.is_local:
        lines += [f"           Only this computer can reach it. For others: {options.typed('serve --listen 0.0.0.0')}"]
    else:
        lines += [f"           or {options.page(ready.port, host)}" for host in ready.hosts[1:3]]
        lines += ["", *_tokens(ready, page)]
    lines += ["", f"  data     {options.server.data}", "  stop     Ctrl-C; jobs go on when it is started again"]
    if terminal and not options.is_local:
        target = page + (f"?token={quote(ready.api_token)}" if ready.api_token else "")
        lines += ["", _qr_code(target)]
    return "\n".join(lines)


def _tokens(ready: Ready, page: str) -> list[str]:
    join = f"passel join https://{_in_url(ready.hosts[0])}:{ready.workers_port} --token "
    bare = f"curl -fsS {page}join | sh -s -- "
    token, typed = ready.join_token or "TOKEN", ready.options.typed
    lines = [f"  submit   with the API token {ready.api_token}"] if ready.api_token else []
    lines += ["  more computers join with one line:", f"           {bare}{token}", f"           {join}{token}"]
    if not ready.kit:
        lines.append("           the first of them in a minute: the kit that it fetches is being made")
    if ready.join_token:
        lines.append(f"           within {JOIN_TOKEN_DAYS} days; another token: {typed('token create --join')}")
    else:
        lines.append(f"           TOKEN: as shown at the first start; another one: {typed('token create --join')}")
    if not ready.api_token:
        lines.append(f"           Another API token: {typed('token create --api')}")
    return lines


def _qr_code(text: str) -> str:
    from io import StringIO

    drawn = StringIO()
    segno.make(text, micro=False).terminal(drawn, compact=True, border=2)
    return drawn.getvalue().rstrip("\n")


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
