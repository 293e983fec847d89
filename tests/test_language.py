"""The words of the code, the tests and the docs are the field's: a short list stays out.

Each pattern has a standard term that a reader of nginx's, Redis' or Postgres' manuals knows. It is
looked for in everything people read: names, docstrings, comments, log messages, texts of the API.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What not to write, and what to write instead.
AVOIDED = {
    r"whoever|whomever|nobody|somebody|everybody|anybody": "client, caller, instance, none",
    r"truths?": "database, source of truth",
    r"doors?": "listener",
    r"(?:gate)?house": "container, services",
    r"desks?": "request handler",
    r"bells?|rung": "notification",
    r"shel(?:f|ves)": "store, cache",
    r"roads?": "lookup path",
    r"express|lanes?": "fast path, aiohttp path",
    r"manners": "policy",
    r"patience": "timeout",
    r"mistakes?|mistaken": "validation error",
    r"strangers?": "untrusted peer",
    r"toucher|janitor|catch[_ -]up": "activity recorder, cleanup job, change poller",
    r"doubts?|doubted|believed?|believes": "not trusted, trusted",
    r"obey(?:s|ed)?": "process",
    r"mend(?:s|ed|ing)?": "fix, repair",
    r"leash|cellar|cargo|passengers?|octets": "pipe, exit stack, payload, waiters, bytes",
    r"spell(?:s|ed|ing|ings)?": "formatted, encoded, TokenText",
    r"the dead|the living|alive": "revoked, ended, active, running",
    r"(?:is|are|was|were|be|goes|went) away": "unavailable",
}

# Places where one of these words is another project's own.
ALLOWED = [
    r"source of truth",  # the field's term
    r"""["' =]nobody\b["';]?""",  # the Unix user, as in getpwnam("nobody")
    r"""["/.`]cargo["/`]|Cargo\.lock|cargo could not""",  # Rust's build program
    r"GOAWAY|is_alive|keep[-_]?alive|Keep-Alive",
]

TEXTS = [
    *sorted((ROOT / "proxy").rglob("*.py")),
    *sorted((ROOT / "proxy").rglob("*.sql")),
    *sorted((ROOT / "tests").rglob("*.py")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(path for path in (ROOT / "config").iterdir() if path.is_file()),
    *sorted(
        path for path in (ROOT / "deploy").rglob("*") if path.suffix != ".pyc" and path.is_file()
    ),
    *(
        ROOT / name
        for name in (
            "README.md",
            "CONTRIBUTING.md",
            "SECURITY.md",
            "Dockerfile",
            "dev",
        )
    ),
]

_WORDS = re.compile(rf"(?<![a-z])(?:{'|'.join(AVOIDED)})(?![a-z])", re.IGNORECASE)
_ALLOWED = re.compile("|".join(ALLOWED))


def found(text: str) -> Iterator[str]:
    """Yield line and word of each word that is to be avoided."""
    for number, line in enumerate(text.split("\n"), 1):
        for match in _WORDS.finditer(_ALLOWED.sub("", line)):
            yield f"{number}: {match[0]}"


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_uses_the_words_of_the_field(path: Path) -> None:
    if path == Path(__file__):
        return
    assert list(found(path.read_text("utf-8"))) == []


@pytest.mark.parametrize("text", ["whoever asks", "self._door", "MISTAKES", "it is away", "a_bell"])
def test_avoided_word_is_found(text: str) -> None:
    assert len(list(found(text))) == 1


@pytest.mark.parametrize("text", ["the source of truth", 'getpwnam("nobody")', "outdoors", "index"])
def test_other_words_pass(text: str) -> None:
    assert list(found(text)) == []
