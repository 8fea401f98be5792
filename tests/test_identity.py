"""The coordinator's authority and TLS made from it: real sockets, real handshakes, files as they may be found."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest

from passel.cluster.trust.authority import Authority, own_names
from passel.cluster.trust.identity import Identity, IdentityError, fingerprint_of, peer_name, trusting, write_secret
from passel.errors import StorageError

NAMES = ("localhost", "127.0.0.1")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "identity")


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str | None:
    """The client's name as the server sees it, after a byte went each way; raises what the client's side raises."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[str | None] = []

    def answer() -> None:
        raw, _ = listener.accept()
        try:
            with server.wrap_socket(raw, server_side=True) as tls:
                seen.append(peer_name(tls))
                tls.sendall(tls.recv(1))
        except OSError:
            raw.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with (
            socket.create_connection(listener.getsockname(), timeout=20) as raw,
            client.wrap_socket(raw, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(b"x")
            if tls.recv(1) != b"x":
                raise ConnectionError("the server hung up")
    finally:
        thread.join()
        listener.close()
    return seen[0]


def test_a_worker_is_known_by_the_name_in_its_certificate(authority: Authority, tmp_path: Path) -> None:
    worker = authority.issue(tmp_path / "worker", "field-pc-3")
    assert handshake(authority.server_context(NAMES), worker.client_context()) == "field-pc-3"


def test_without_a_certificate_one_may_connect_but_is_nobody(authority: Authority) -> None:
    assert handshake(authority.server_context(NAMES), trusting(authority.ca)) is None
    assert handshake(authority.server_context(NAMES), trusting(authority.ca.read_text())) is None


def test_another_authority_is_refused_by_both_sides(authority: Authority, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "other")
    stranger = other.issue(tmp_path / "stranger", "field-pc-3")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(authority.server_context(NAMES), stranger.client_context())
    forged = trusting(authority.ca)  # believes the coordinator, shows a certificate that it cannot know
    forged.load_cert_chain(stranger.certificate, stranger.key)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(authority.server_context(NAMES), forged)
    assert other.fingerprint != authority.fingerprint


def test_a_worker_cannot_pose_as_the_coordinator(authority: Authority, tmp_path: Path) -> None:
    worker = authority.issue(tmp_path / "worker", "evil")
    posing = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    posing.load_cert_chain(worker.certificate, worker.key)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(posing, trusting(authority.ca))


def test_the_coordinator_cannot_be_taken_for_a_worker(authority: Authority) -> None:
    server = authority.server_context(NAMES)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(server, Identity(authority.folder).client_context())


def test_names_in_the_servers_certificate_follow_the_machine(authority: Authority) -> None:
    context = authority.server_context(NAMES)
    strict = trusting(authority.ca)
    strict.check_hostname = True
    handshake(context, strict)
    assert not authority.renew(context, NAMES[:1])  # fewer names: the certificate stays
    assert authority.renew(context, ("192.0.2.7", "Größe", ""))
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(context, strict)
    assert {"localhost", "127.0.0.1", socket.gethostname()} <= set(own_names())


def test_keys_are_for_their_owner_only_and_survive_restarts(authority: Authority, tmp_path: Path) -> None:
    authority.server_context(NAMES)
    worker = authority.issue(tmp_path / "worker", "w")
    for file in [*authority.folder.iterdir(), *worker.folder.iterdir()]:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    certificate = worker.certificate.read_bytes()
    again = Authority.open(authority.folder)
    assert again.fingerprint == authority.fingerprint == fingerprint_of(worker.ca.read_bytes())
    assert again.issue(worker.folder, "w").certificate.read_bytes() == certificate
    assert again.issue(worker.folder, "w2").name == "w2"


@pytest.mark.parametrize("lost", ["ca.pem", "certificate.pem", "key.pem"])
def test_killed_between_two_files_it_goes_on(authority: Authority, tmp_path: Path, lost: str) -> None:
    authority.server_context(NAMES)
    worker = authority.issue(tmp_path / "worker", "w")
    (authority.folder / lost).unlink()
    again = Authority.open(authority.folder)
    assert again.fingerprint == authority.fingerprint
    assert handshake(again.server_context(NAMES), worker.client_context()) == "w"


def test_broken_files_are_named(authority: Authority, tmp_path: Path) -> None:
    worker = authority.issue(tmp_path / "worker", "w")
    worker.key.write_text("garbage")
    with pytest.raises(IdentityError, match=r"worker.*restore the folder, or remove it and join again"):
        worker.client_context()
    worker.ca.write_text("garbage")
    with pytest.raises(IdentityError):
        worker.client_context()
    with pytest.raises(IdentityError, match="no certificate"):
        fingerprint_of(b"garbage")
    with pytest.raises(IdentityError, match="cannot be read"):
        authority.sign_worker("garbage", "w")
    other = Authority.open(tmp_path / "other")
    (authority.folder / "ca.pem").write_bytes(other.ca.read_bytes())
    with pytest.raises(IdentityError, match="do not belong together"):
        Authority.open(authority.folder)
    (authority.folder / "ca-key.pem").unlink()
    with pytest.raises(IdentityError, match="key is gone"):
        Authority.open(authority.folder)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Authority.open(tmp_path / "file" / "identity")


def test_nothing_is_left_aside(authority: Authority) -> None:
    authority.server_context(NAMES)
    assert sorted(os.listdir(authority.folder)) == ["ca-key.pem", "ca.pem", "certificate.pem", "key.pem"]


def test_a_folder_that_takes_no_identity_is_told_with_the_option_that_names_another(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"the identity cannot be written.*--home \(join\) or --data \(serve\)"):
        write_secret(tmp_path / "file" / "key.pem", b"")
