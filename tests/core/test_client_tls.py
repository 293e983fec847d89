"""The TLS context of connections to stores, and the errors of its files."""

import ssl
from pathlib import Path

import pytest

from sidegate.core.client_tls import ClientTls, TlsFileError, Verify, build_client_context
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.mark.parametrize(
    ("verify", "mode", "check_hostname"),
    [
        (Verify.FULL, ssl.CERT_REQUIRED, True),
        (Verify.CA, ssl.CERT_REQUIRED, False),
        (Verify.NONE, ssl.CERT_NONE, False),
    ],
)
def test_what_is_verified(verify: Verify, mode: ssl.VerifyMode, check_hostname: bool) -> None:
    context = build_client_context(ClientTls(verify=verify))
    assert (context.verify_mode, context.check_hostname) == (mode, check_hostname)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_private_ca_replaces_those_of_the_system(authority: Authority) -> None:
    context = build_client_context(ClientTls(ca_file=str(authority.ca_file)))
    assert len(context.get_ca_certs()) == 1


def test_certificate_and_key_may_be_in_one_file(authority: Authority, tmp_path: Path) -> None:
    own = authority.issue("client")
    both = tmp_path / "both.pem"
    both.write_bytes(own.cert_file.read_bytes() + own.key_file.read_bytes())
    build_client_context(ClientTls(cert_file=str(both)))
    build_client_context(ClientTls(cert_file=str(own.cert_file), key_file=str(own.key_file)))


def build_wrong_files(authority: Authority, directory: Path) -> dict[str, ClientTls]:
    ada, bob = authority.issue("ada"), authority.issue("bob")
    cert = str(ada.cert_file)
    text, encrypted = directory / "text", directory / "encrypted"
    text.write_text("not a certificate")
    encrypted.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n")
    return {
        "absent ca": ClientTls(ca_file=str(directory / "absent")),
        "directory": ClientTls(ca_file=str(directory)),
        "no ca": ClientTls(ca_file=str(text)),
        "key as ca": ClientTls(ca_file=str(ada.key_file)),
        "nul": ClientTls(ca_file="a\0b"),
        "no certificate": ClientTls(cert_file=str(text), key_file=str(ada.key_file)),
        "no key": ClientTls(cert_file=cert),
        "absent key": ClientTls(cert_file=cert, key_file=str(directory / "absent")),
        "other key": ClientTls(cert_file=cert, key_file=str(bob.key_file)),
        "encrypted": ClientTls(cert_file=cert, key_file=str(encrypted)),
    }


@pytest.mark.parametrize(
    ("case", "file", "message"),
    [
        ("absent ca", "ca_file", "the file cannot be read: No such file or directory"),
        ("directory", "ca_file", "the file cannot be read: Is a directory"),
        ("no ca", "ca_file", "the file holds no certificate in PEM format"),
        ("key as ca", "ca_file", "the file holds no certificate in PEM format"),
        ("nul", "ca_file", "is not the path of a file"),
        ("no certificate", "cert_file", "the file does not hold a certificate, or its key, in PEM"),
        ("no key", "cert_file", "the file does not hold a certificate and its key, in PEM"),
        ("absent key", "key_file", "the file cannot be read: No such file or directory"),
        ("other key", "key_file", "the key belongs to another certificate"),
        ("encrypted", "key_file", "the key is encrypted: store it without a passphrase"),
    ],
)
def test_file_that_cannot_be_used_is_named(
    authority: Authority, tmp_path: Path, case: str, file: str, message: str
) -> None:
    with pytest.raises(TlsFileError) as caught:
        build_client_context(build_wrong_files(authority, tmp_path)[case])
    assert caught.value.file == file
    assert str(caught.value).startswith(message)
    assert str(tmp_path) not in str(caught.value)
