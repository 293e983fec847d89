"""The TLS context of new connections follows its files."""

import logging
import os
from pathlib import Path

import pytest

from sidegate.core.client_tls import ClientTls, TlsFileError
from sidegate.stores.client_context import ClientContext
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def replace(path: Path, text: bytes) -> None:
    """Replace a file as certificate managers do: by another file."""
    draft = path.with_suffix(".new")
    draft.write_bytes(text)
    os.replace(draft, path)  # noqa: PTH105


def test_context_is_built_once_while_its_files_are_the_same(authority: Authority) -> None:
    context = ClientContext(ClientTls(ca_file=str(authority.ca_file)), store="redis")
    assert context.get() is context.get()


def test_changed_file_is_used_for_new_connections(authority: Authority, tmp_path: Path) -> None:
    context = ClientContext(ClientTls(ca_file=str(authority.ca_file)), store="redis")
    first = context.get()
    replace(authority.ca_file, Authority(tmp_path, "other").ca_file.read_bytes())
    assert context.get() is not first
    [subject] = [ca["subject"] for ca in context.get().get_ca_certs()]
    assert subject == ((("commonName", "other"),),)


def test_previous_context_is_kept_while_the_changed_file_cannot_be_used(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sidegate.stores")
    context = ClientContext(ClientTls(ca_file=str(authority.ca_file)), store="redis")
    first, good = context.get(), authority.ca_file.read_bytes()
    replace(authority.ca_file, b"half of it")
    assert [context.get() for _ in range(3)] == [first] * 3
    [record] = caplog.records
    assert (record.msg, vars(record)["store"]) == ("tls files unusable", "redis")
    assert vars(record)["reason"] == "the file holds no certificate in PEM format"
    authority.ca_file.unlink()
    assert context.get() is first
    replace(authority.ca_file, good)
    assert context.get() is not first


def test_first_context_needs_its_files(tmp_path: Path) -> None:
    context = ClientContext(ClientTls(ca_file=str(tmp_path / "absent")), store="redis")
    with pytest.raises(TlsFileError):
        context.get()
