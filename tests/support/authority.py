"""A certificate authority, and certificates of servers and clients: valid, expired, self-signed."""

from __future__ import annotations

import ipaddress
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.processes import chown_to_child_user

if TYPE_CHECKING:
    from pathlib import Path

# What servers of the tests are called: 127.1 is resolved to the loopback interface, as any name of
# another machine could be, and is not known as such.
HOSTS = ("localhost", "127.0.0.1", "127.1")
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate and its key, in PEM."""

    cert_file: Path
    key_file: Path


class Authority:
    """Issues certificates. `ca_file` is what its clients trust."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _build_name(name)
        certificate = (
            _build_certificate(self._name, self._key.public_key(), issuer=self._name)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = directory / f"{name}.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.ca_file.chmod(0o644)

    def issue(
        self, name: str, *, hosts: tuple[str, ...] = HOSTS, valid_for: timedelta = DAY
    ) -> Certificate:
        """Issue a certificate for these hosts; `name` is its common name, and that of its files.

        A negative `valid_for` issues one that has expired.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _build_name(name)
        certificate = _build_certificate(
            subject, key.public_key(), issuer=self._name, hosts=hosts, valid_for=valid_for
        ).sign(self._key, hashes.SHA256())
        return self._write(name, certificate, key)

    def self_sign(self, name: str, *, hosts: tuple[str, ...] = HOSTS) -> Certificate:
        """Write a certificate that was issued by no authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _build_name(name)
        certificate = _build_certificate(
            subject, key.public_key(), issuer=subject, hosts=hosts
        ).sign(key, hashes.SHA256())
        return self._write(name, certificate, key)

    def _write(
        self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
    ) -> Certificate:
        files = Certificate(self._directory / f"{name}.crt", self._directory / f"{name}.key")
        files.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        files.key_file.chmod(0o600)  # Postgres refuses others
        chown_to_child_user(self._directory)
        return files


def _build_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _build_certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    hosts: tuple[str, ...] = (),
    valid_for: timedelta = DAY,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(valid_for, timedelta(0)) - DAY)
        .not_valid_after(now + valid_for)
    )
    if hosts:
        names = x509.SubjectAlternativeName([_build_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return builder


def _build_host(host: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    return x509.DNSName(host)
