"""TLS of connections to stores: what of the server is verified, and the files it takes."""

import ssl
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

TlsFile = Literal["ca_file", "cert_file", "key_file"]


class Verify(StrEnum):
    """What of the server's certificate is verified."""

    FULL = "full"  # it was issued by a trusted CA, for the host's name or address
    CA = "ca"  # it was issued by a trusted CA
    NONE = "none"  # nothing: the connection is encrypted, and the server may be any


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS to one store. Without `ca_file` the CAs of the system are trusted.

    `cert_file` and `key_file` are the client's own certificate; without `key_file` its key is in
    `cert_file`, too. All are paths of PEM files.
    """

    verify: Verify = Verify.FULL
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def files(self) -> dict[TlsFile, str]:
        """The files that are set."""
        files: dict[TlsFile, str | None] = {
            "ca_file": self.ca_file,
            "cert_file": self.cert_file,
            "key_file": self.key_file,
        }
        return {name: path for name, path in files.items() if path is not None}


class TlsFileError(ValueError):
    """A file cannot be used. The message says why, without the file's path."""

    def __init__(self, file: TlsFile, problem: str) -> None:
        super().__init__(problem)
        self.file: Final = file


def build_client_context(tls: ClientTls) -> ssl.SSLContext:
    """Return the context for new connections. Raise TlsFileError if a file cannot be used."""
    texts = {file: _read(file, path) for file, path in tls.files.items()}
    own = texts.get("cert_file", b"") + texts.get("key_file", b"")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.verify is Verify.FULL
    context.verify_mode = ssl.CERT_NONE if tls.verify is Verify.NONE else ssl.CERT_REQUIRED
    if tls.ca_file is not None:
        _load_ca(context, tls.ca_file)
    elif tls.verify is not Verify.NONE:
        context.load_default_certs()
    if tls.cert_file is not None:
        _load_certificate(context, tls, is_encrypted=b"ENCRYPTED" in own)
    return context


def _read(file: TlsFile, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TlsFileError(file, f"the file cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        raise TlsFileError(file, "is not the path of a file") from None


def _load_ca(context: ssl.SSLContext, path: str) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError):
        raise TlsFileError("ca_file", "the file holds no certificate in PEM format") from None


def _load_certificate(context: ssl.SSLContext, tls: ClientTls, *, is_encrypted: bool) -> None:
    assert tls.cert_file is not None
    key: TlsFile = "cert_file" if tls.key_file is None else "key_file"
    if is_encrypted:  # OpenSSL would ask for the passphrase at the terminal
        raise TlsFileError(key, "the key is encrypted: store it without a passphrase")
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsFileError(key, "the key belongs to another certificate") from None
        both = "a certificate and its key" if tls.key_file is None else "a certificate, or its key"
        raise TlsFileError("cert_file", f"the file does not hold {both}, in PEM format") from None
    except OSError as error:
        raise TlsFileError("cert_file", f"the file cannot be read: {error.strerror}") from None
