"""The law of proxy/__init__.py: who may know whom, and in which room each library lives."""

import ast
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

import pytest

PROXY = Path(__file__).parent.parent / "proxy"

# What each floor may know of ours; the roof, which is everything else, may know all.
FLOORS = {
    "core": {"core"},
    "service": {"service", "core"},
    "stores": {"stores", "core"},
    "observe": {"observe", "core"},
    "web": {"web", "service", "core"},
}

# Which files may import a library. One that is not here has no room, and none may.
ROOMS = {
    "aiohttp": ["web/*"],
    "aiosqlite": ["stores/sqlite*.py"],
    "asyncpg": ["stores/postgres*.py"],
    "click": ["cli.py", "commands/*"],
    "jwt": ["web/logout/jose.py"],
    "msgspec": ["stores/codec.py"],
    "prometheus_client": ["observe/*", "web/ops.py", "web/worker_ops.py"],
    "pydantic": ["settings/*", "web/payloads/*"],
    "pydantic_core": ["web/payloads/*"],
    "redis": ["stores/redis*.py"],
    "structlog": ["observe/logs.py"],
    "typing_extensions": ["web/payloads/*"],  # what pydantic needs of it before Python 3.12
    "uuid_utils": ["house.py"],
    "uvloop": ["commands/options.py"],
    "yaml": ["settings/*"],
    "yarl": ["web/*"],  # aiohttp's word for a URL
}


def violations(room: str, source: str) -> list[str]:
    """Say what `source`, the file `room` below proxy/, imports against the law."""
    return [
        f"{room}:{line}: {why}"
        for line, module in _imports(ast.parse(source))
        if (why := _objection(room, module))
    ]


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield what is imported, wherever it stands: at the top, in a function, for types only."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names)
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from ((node.lineno, f"{module}.{name.name}") for name in names)
            case ast.ImportFrom():
                yield node.lineno, "."
            case ast.Call(
                func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"),
            ):
                yield node.lineno, "?"


def _objection(room: str, module: str) -> str | None:
    library, *rest = module.split(".")
    floor = room.partition("/")[0]
    if library in ("", "?"):
        return "say plainly what is imported, from proxy down"
    if library in sys.stdlib_module_names:
        return None
    if library == "proxy":
        known = FLOORS.get(floor)
        if known is None or (rest and rest[0] in known):
            return None
        return f"{floor} may not know {module}"
    if any(fnmatch(room, mine) for mine in ROOMS.get(library, [])):
        return None
    return f"{library} does not live here"


def files() -> list[Path]:
    return sorted(PROXY.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PROXY)))
def test_a_file_imports_what_the_plan_allows(path: Path) -> None:
    assert violations(path.relative_to(PROXY).as_posix(), path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PROXY)))
def test_a_file_says_its_subject_first(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


def test_every_floor_and_every_room_is_there() -> None:
    names = [path.relative_to(PROXY).as_posix() for path in files()]

    for pattern in (*(f"{floor}/*" for floor in FLOORS), *chain.from_iterable(ROOMS.values())):
        assert any(fnmatch(name, pattern) for name in names), pattern


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core/judge.py", "import aiohttp"),
        ("core/judge.py", "from proxy.service.validator import Validator"),
        ("core/judge.py", "from proxy import service"),
        ("core/judge.py", "import proxy.settings"),
        ("core/judge.py", "import proxy"),
        ("core/judge.py", "from . import token"),
        ("core/judge.py", "def f():\n    import msgspec"),
        ("core/judge.py", "if TYPE_CHECKING:\n    from proxy.web.gate import Gate"),
        ("service/sessions.py", "from proxy.stores.local import LocalStore"),
        ("service/sessions.py", "from proxy.settings import Settings"),
        ("stores/local.py", "from proxy.observe.prometheus import Metrics"),
        ("stores/local.py", "import redis"),
        ("stores/postgres.py", "import aiosqlite"),
        ("observe/prometheus.py", "from proxy.stores import local"),
        ("observe/prometheus.py", "import structlog"),
        ("web/gate.py", "from proxy.stores.local import LocalStore"),
        ("web/gate.py", "from proxy.app import serve"),
        ("web/gate.py", "import pydantic"),
        ("app.py", "import structlog"),
        ("app.py", "import a_library_nobody_has_heard_of"),
        ("stores/local.py", "import importlib\nimportlib.import_module('proxy.web')"),
        ("stores/local.py", "__import__('redis')"),
    ],
)
def test_a_forbidden_import_is_noticed(room: str, source: str) -> None:
    assert len(violations(room, source)) == 1


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core/judge.py", "import re\nfrom collections.abc import Mapping\nimport os.path"),
        ("core/judge.py", "from proxy.core.verdict import Allow"),
        ("web/admin.py", "from proxy.service.sessions import Sessions\nfrom aiohttp import web"),
        ("stores/redis_feed.py", "from redis.asyncio import Redis"),
        ("app.py", "from proxy.web.gate import Gate\nfrom proxy.stores.local import LocalStore"),
        ("settings/sections.py", "from pydantic import BaseModel\nimport proxy.core.token"),
    ],
)
def test_an_allowed_import_is_let_pass(room: str, source: str) -> None:
    assert violations(room, source) == []
