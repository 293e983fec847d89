"""The token keys in use: those of the settings, or those of a file in data_dir."""

from sidegate.core.token import KeyRing, TokenKey
from sidegate.settings.secret_file import file_error, read_or_create
from sidegate.settings.sections import Settings


def read_token_keys(settings: Settings) -> tuple[TokenKey, ...]:
    """Return the keys, the newest first.

    Without token.keys in the settings, read `<data_dir>/token.keys`, and create it (mode 0600) if
    it is absent. Raise SettingsError if the file cannot be read, created or parsed.
    """
    if settings.token.keys:
        return settings.token.keys
    path = settings.data_dir / "token.keys"
    text = read_or_create(path, "token.keys", make=lambda: TokenKey.generate().format())
    try:
        keys = tuple(TokenKey.parse(word) for word in text.replace(",", " ").split())
        KeyRing(keys)
    except ValueError as error:
        raise file_error(path, "token.keys", problem=str(error)) from None
    return keys
