"""The URLs of stores as settings: read by the tables of core, and their TLS files opened.

A validation error names the parameters, and contains nothing of their values.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from pydantic import AfterValidator, PlainSerializer, SecretStr, WithJsonSchema

from sidegate.core import postgres_url, redis_url
from sidegate.core.client_tls import ClientTls, TlsFile, TlsFileError, build_client_context
from sidegate.core.store_url import mask_url


def _check_database_url(url: SecretStr) -> SecretStr:
    parsed = postgres_url.parse_postgres_url(url.get_secret_value())
    used = (parsed.get_tls(host) for host in parsed.hosts)
    _check_files(used, postgres_url.TLS_PARAMETERS)
    return url


def _check_redis_url(url: SecretStr) -> SecretStr:
    parsed = redis_url.parse_redis_url(url.get_secret_value())
    _check_files((parsed.tls,), redis_url.TLS_PARAMETERS)
    return url


def _check_files(used: Iterable[ClientTls | None], parameters: Mapping[TlsFile, str]) -> None:
    """Raise ValueError if a file cannot be used; `parameters` are those that set the files."""
    for tls in used:
        if tls is None or not tls.files:
            continue
        try:
            build_client_context(tls)
        except TlsFileError as error:
            raise ValueError(f"{parameters[error.file]}: {error}") from None


_MASKED: Final = PlainSerializer(lambda url: mask_url(url.get_secret_value()), return_type=str)
_URL_SCHEMA: Final = WithJsonSchema({"type": "string", "format": "uri", "writeOnly": True})
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url), _MASKED, _URL_SCHEMA]
RedisUrl = Annotated[SecretStr, AfterValidator(_check_redis_url), _MASKED, _URL_SCHEMA]
