"""Who a machine of the passel is: a private key, a certificate of the coordinator's own authority, and TLS from both.

Trust has one root, the authority that each coordinator makes for itself (`authority.py`). A machine's name is the common
name of its certificate. Certificates say what they are for: the coordinator's is good for serving only and a worker's for
connecting only, so no worker can pose as the coordinator. That is why host names are not checked: an address that
changes, a router in between or a name from somebody's hosts file must not stop a field kit.
"""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from passel.errors import PasselError, StorageError

FINGERPRINT_CHARS = (
    24  # 120 bits of SHA-256: nobody makes a second key with the same ones, and a person can still type it
)


class IdentityError(PasselError):
    """A machine is not who it must be, or cannot prove who it is."""


@dataclass(frozen=True)
class Identity:
    """The files of one machine's identity in a folder of its own: `key.pem` (mode 0600), `certificate.pem`, `ca.pem`."""

    folder: Path

    @property
    def key(self) -> Path:
        """The private key; it never leaves the machine."""
        return self.folder / "key.pem"

    @property
    def certificate(self) -> Path:
        """The certificate, signed by the coordinator's authority."""
        return self.folder / "certificate.pem"

    @property
    def ca(self) -> Path:
        """The certificate of the authority itself: what the other side's is checked against."""
        return self.folder / "ca.pem"

    @property
    def is_complete(self) -> bool:
        """Whether the machine has joined: the certificate is written last."""
        return self.key.is_file() and self.ca.is_file() and self.certificate.is_file()

    @property
    def name(self) -> str:
        """The machine's name in the passel."""
        return common_name(read_certificate(self.certificate))

    @property
    def fingerprint(self) -> str:
        """The authority that this identity belongs to."""
        return fingerprint_of(self.ca.read_bytes())

    def own_key(self) -> ec.EllipticCurvePrivateKey:
        """The private key, made at the first call. A machine that asks again, asks with the same key."""
        if not self.key.is_file():
            write_secret(self.key, key_pem(new_key()))
        return read_key(self.key)

    def request_pem(self, hostname: str) -> str:
        """A request to sign this machine's key: proof that it has the key, with the name that it would like."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hostname[:64])])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.own_key(), hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def keep(self, certificate_pem: str, ca_pem: str) -> None:
        """Write what the coordinator answered; the identity is complete only once all of it is there."""
        write_secret(self.ca, ca_pem.encode("ascii"))
        write_secret(self.certificate, certificate_pem.encode("ascii"))

    def client_context(self) -> ssl.SSLContext:
        """TLS to the coordinator, and to nobody else, as this machine. Raises IdentityError if the files are no identity."""
        context = trusting(self.ca)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as e:
            raise _unusable(self.folder, e) from e
        return context


def trusting(ca: Path | str) -> ssl.SSLContext:
    """TLS to the coordinator of that authority (the file, or its PEM text), without proof of who asks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # see the module: the authority signs one server, its coordinator
    try:
        if isinstance(ca, Path):
            context.load_verify_locations(cafile=ca)
        else:
            context.load_verify_locations(cadata=ca)
    except (OSError, ssl.SSLError) as e:
        raise _unusable(ca.parent if isinstance(ca, Path) else Path("ca.pem"), e) from e
    return context


def peer_name(tls: ssl.SSLObject | None) -> str | None:
    """The name in the certificate that the other side of a connection has proven, or None without one."""
    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    return common_name(x509.load_der_x509_certificate(shown)) if shown else None


def fingerprint_of(ca_pem: bytes) -> str:
    """What a join token pins: a digest of the authority's public key, in letters and digits."""
    try:
        return key_digest(x509.load_pem_x509_certificate(ca_pem).public_key())  # type: ignore[arg-type]
    except ValueError as e:
        raise IdentityError("what the coordinator shows is no certificate", str(e), "check the address") from e


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """The digest of a public key, FINGERPRINT_CHARS long."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    digest = hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).digest()
    return base64.b32encode(digest).decode("ascii").lower()[:FINGERPRINT_CHARS]


def common_name(certificate: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The common name of a subject, '' if it has none."""
    values = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(values[0].value) if values else ""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as text for a file that only its owner may read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A private key from its file."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (ValueError, TypeError, OSError) as e:
        raise _unusable(path.parent, e) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _unusable(path.parent, ValueError(f"{path.name} holds another kind of key"))
    return key


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate from its file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (ValueError, OSError) as e:
        raise _unusable(path.parent, e) from e


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read: aside, to the disk, renamed; whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(aside)
    except OSError as e:
        what = f"the identity cannot be written: {e.strerror}"
        raise StorageError(
            what, str(path), "make room, or choose another folder with --home (join) or --data (serve)"
        ) from e


def _unusable(folder: Path, error: Exception) -> IdentityError:
    detail = error.strerror if isinstance(error, OSError) and error.strerror else error
    return IdentityError(
        f"the identity cannot be used: {detail}", str(folder), "restore the folder, or remove it and join again"
    )
