"""Write files as a whole: a reader gets the old text or the new one, never a part."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

import click


def replace_file(path: Path, text: str, *, mode: int | None = None) -> None:
    """Write a draft beside `path` and rename it, with this mode or that of the umask.

    A symbolic link is replaced, not followed. Raise OSError.
    """
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    created = 0o666 if mode is None else 0o600
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, created)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_files(directory: Path, files: Mapping[str, str], *, force: bool) -> Iterator[str]:
    """Write the files and yield a line about each. Raise ClickException if that is not possible.

    Without `force` nothing is written if a file exists with another text.
    """
    texts = {directory / name: text for name, text in files.items()}
    try:
        changed = [path for path, text in texts.items() if not _has_text(path, text)]
        existing = [path for path in changed if os.path.lexists(path)]
        if existing and not force:
            raise click.ClickException(_describe_existing(existing))
        for path, text in texts.items():
            if path in changed:
                replace_file(path, text, mode=_find_mode(path))
            yield f"{'wrote' if path in changed else 'unchanged'} {path}"
    except OSError as error:
        raise click.ClickException(
            f"{directory}: the files cannot be written: {error.strerror}; choose another"
            " --directory, or print them without it"
        ) from None


def _describe_existing(paths: Sequence[Path]) -> str:
    names = ", ".join(map(str, paths))
    return f"another text is in {names}; add --force to replace it, or choose another --directory"


def _has_text(path: Path, text: str) -> bool:
    """Return whether a regular file has this text. Raise OSError if it cannot be read."""
    with suppress(FileNotFoundError):
        return stat.S_ISREG(path.stat().st_mode) and path.read_bytes() == text.encode()
    return False


def _find_mode(path: Path) -> int | None:
    """Return the mode of an existing file; None for a new one, and for a link, which has none."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        return stat.S_IMODE(status.st_mode) & 0o777 if stat.S_ISREG(status.st_mode) else None
    return None
