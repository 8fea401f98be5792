"""The coordinator's own certificate authority: made at the first start, kept in its data folder, known to nobody else.

The private key is the truth: its digest is what join tokens pin, and both certificates can be made again from it, so a
kill between two files costs nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from passel.cluster.trust.identity import (
    Identity,
    IdentityError,
    common_name,
    key_digest,
    key_pem,
    new_key,
    read_certificate,
    read_key,
    write_secret,
)

# Field computers forget the time: certificates hold from long ago to long ahead; what ends a membership is revocation.
_BEGIN = datetime(2000, 1, 1, tzinfo=UTC)
_CA_YEARS, _MEMBER_YEARS, _RENEW_YEARS = 30, 10, 2
_YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Authority:
    """A certificate authority in a folder: `ca-key.pem`, `ca.pem`, and the coordinator's own identity beside them."""

    folder: Path

    @staticmethod
    def open(folder: Path) -> Authority:
        """The authority of that folder, made if there is none. Raises StorageError or IdentityError."""
        authority = Authority(folder)
        key_file = folder / "ca-key.pem"
        if not key_file.is_file():
            if authority.ca.is_file():
                raise IdentityError(
                    "the authority's key is gone, its certificate is there", str(key_file), "restore it from a backup"
                )
            write_secret(key_file, key_pem(new_key()))
        if not authority.ca.is_file():
            write_secret(authority.ca, _pem(_own_certificate(read_key(key_file))))
        if key_digest(read_key(key_file).public_key()) != Identity(folder).fingerprint:
            raise IdentityError("ca.pem and ca-key.pem do not belong together", str(folder), "restore both")
        return authority

    @property
    def ca(self) -> Path:
        """The authority's certificate, which everybody may see."""
        return self.folder / "ca.pem"

    @property
    def fingerprint(self) -> str:
        """What join tokens pin."""
        return Identity(self.folder).fingerprint

    def sign_worker(self, request_pem: str, name: str) -> str:
        """A worker's certificate (PEM) for the key of a signing request. Raises IdentityError for a broken request."""
        try:
            request = x509.load_pem_x509_csr(request_pem.encode("ascii"))
            valid = request.is_signature_valid
        except (ValueError, UnicodeEncodeError) as e:
            raise IdentityError("the signing request cannot be read", str(e), "join again") from e
        key = request.public_key()
        if not valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise IdentityError("the signing request proves no key", common_name(request), "join again")
        return self._member(key, name, ExtendedKeyUsageOID.CLIENT_AUTH, ()).decode("ascii")

    def issue(self, folder: Path, name: str) -> Identity:
        """The identity of a worker on this very machine, made anew unless it is there and by this authority."""
        identity = Identity(folder)
        if identity.is_complete and identity.fingerprint == self.fingerprint and identity.name == name:
            return identity
        certificate = self.sign_worker(identity.request_pem(name), name)
        identity.keep(certificate, self.ca.read_text("ascii"))
        return identity

    def server_context(self, names: Sequence[str]) -> ssl.SSLContext:
        """TLS for the workers' port under these names and addresses. A client may show a certificate, and then a valid one."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL  # a machine that wants to join has none yet
        context.load_verify_locations(cafile=self.ca)
        self.renew(context, names)
        return context

    def renew(self, context: ssl.SSLContext, names: Sequence[str]) -> bool:
        """Make `context` show a certificate for `names`, making it anew if they changed or it ends soon; whether it did."""
        identity = Identity(self.folder)
        made = not self._serves(identity, names)
        if made:
            certificate = self._member(
                identity.own_key().public_key(), "coordinator", ExtendedKeyUsageOID.SERVER_AUTH, names
            )
            write_secret(identity.certificate, certificate)
        context.load_cert_chain(identity.certificate, identity.key)
        return made

    def _serves(self, identity: Identity, names: Sequence[str]) -> bool:
        if not identity.is_complete:
            return False
        certificate = read_certificate(identity.certificate)
        if certificate.public_key() != identity.own_key().public_key():
            return False
        ends_soon = certificate.not_valid_after_utc < datetime.now(UTC) + _RENEW_YEARS * _YEAR
        known = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return not ends_soon and set(known) >= set(_alternatives(names))

    def _member(
        self, key: ec.EllipticCurvePublicKey, name: str, purpose: x509.ObjectIdentifier, names: Sequence[str]
    ) -> bytes:
        ca = read_certificate(self.ca)
        builder = _builder(name, key, ca.subject, _MEMBER_YEARS)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key())  # type: ignore[arg-type]
        builder = builder.add_extension(issuer, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(_alternatives(names)), critical=False)
        return _pem(builder.sign(read_key(self.folder / "ca-key.pem"), hashes.SHA256()))


def own_names() -> tuple[str, ...]:
    """Names and addresses under which other machines may know this one."""
    names = {"localhost", socket.gethostname(), socket.gethostname().partition(".")[0] + ".local"}
    for addresses in psutil.net_if_addrs().values():
        names |= {a.address.partition("%")[0] for a in addresses if a.family in (socket.AF_INET, socket.AF_INET6)}
    return tuple(sorted(names))


def _alternatives(names: Sequence[str]) -> list[x509.GeneralName]:
    made: list[x509.GeneralName] = []
    for name in names:
        try:
            made.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            if name.isascii() and name:  # other names cannot stand in a certificate
                made.append(x509.DNSName(name))
    return made


def _own_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The authority's own. Its name holds the fingerprint, or two authorities would look alike to TLS libraries."""
    name = f"Passel {key_digest(key.public_key())}"
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = _builder(name, key.public_key(), subject, _CA_YEARS)
    builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
    signs_only = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    return builder.add_extension(signs_only, critical=True).sign(key, hashes.SHA256())


def _builder(name: str, key: ec.EllipticCurvePublicKey, issuer: x509.Name, years: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_BEGIN)
        .not_valid_after(datetime.now(UTC) + years * _YEAR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
