"""The token keys in force: those of the settings, or, on the embedded default, our own file's."""

from sidegate.core.token import KeyRing, TokenKey
from sidegate.settings.secret_file import read_or_make, wrong
from sidegate.settings.sections import Settings


def token_keys(settings: Settings) -> tuple[TokenKey, ...]:
    """Return the keys, newest first. With none in the settings, `<data_dir>/token.keys` is read,
    or made (mode 0600) when it is not there yet: one machine needs nobody to agree with.

    SettingsError: the file cannot be read, made or understood.
    """
    if settings.token.keys:
        return settings.token.keys
    path = settings.data_dir / "token.keys"
    text = read_or_make(path, "token.keys", lambda: TokenKey.generate().formatted())
    try:
        keys = tuple(TokenKey.parse(word) for word in text.replace(",", " ").split())
        KeyRing(keys)
    except ValueError as error:
        raise wrong(path, "token.keys", str(error)) from None
    return keys
