"""URLs whose host is authenticated."""

import pytest

from sidegate.core.secure_url import is_secure


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example",
        "https://id.example/keys",
        "https://ID.example:8443/a/b.json?c=d&e=%20",
        "https://203.0.113.9/keys",
        "https://[2001:db8::1]:8443/keys",
        "http://localhost/keys",
        "http://LOCALHOST:8080/keys",
        "http://127.0.0.1:8080/keys",
        "http://127.9.9.9/",
        "http://[::1]:8080/keys",
    ],
)
def test_https_and_loopback_urls_are_secure(url: str) -> None:
    assert is_secure(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "id.example/keys",
        "http://id.example/keys",
        "http://10.0.0.1/keys",
        "http://0.0.0.0/keys",
        "http://[::]/keys",
        "http://[::ffff:10.0.0.1]/keys",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "http://127.1/",
        "http://2130706433/",
        "http://localhost@evil.example/",
        "http://localhost:80@evil.example/",
        "http://localhost\\@evil.example/",
        "http://localhost#@evil.example/",
        "http://localhost?@evil.example/",
        "http://evil.example\\.localhost/",
        "https://user:password@id.example/",
        "https://id.example/#fragment",
        "https://id.example:port/",
        "https://id.example:999999/",
        "https://id.example/a b",
        "https://id.example/\n",
        "https://id.example/ü",
        "https:///keys",
        "https:id.example",
        "HTTPS://id.example",
        "ftp://localhost/keys",
        "file:///etc/passwd",
        "https://id.example/" + "x" * 512,
    ],
)
def test_other_urls_are_not_secure(url: str) -> None:
    assert not is_secure(url)
