"""Which package may import which, and which package may use which third-party library."""

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

SOURCE = Path(__file__).parents[1] / "proxy/sidegate"
TESTS = Path(__file__).parent

# Which of our layers each layer may import; `runtime`, `cli` and `settings` compose them all.
LAYERS = {
    "core": {"core"},
    "services": {"services", "core"},
    "stores": {"stores", "core"},
    "observability": {"observability", "core"},
    "web": {"web", "services", "core"},
    "gateway_config": {"gateway_config", "core"},
    "settings": {"settings", "core"},
}

# The folder or file each third-party library is confined to. A library without a row is refused.
LIBRARIES = {
    "aiohttp": ["web"],
    "aiosqlite": ["stores/sqlite"],
    "asyncpg": ["stores/postgres"],
    "click": ["cli"],
    "jinja2": ["gateway_config"],
    "hiredis": ["stores/redis/pipelines.py"],
    "jwt": ["web/oidc/jose.py"],
    # Records, and values of which there are very many.
    "msgspec": [
        "stores/codec.py",
        "core/session.py",
        "core/memory_entry.py",
        "services/activity.py",
        "web/server/response_bytes.py",
    ],
    "prometheus_client": ["observability", "web/ops"],
    "pydantic": ["settings", "web/schemas"],
    "pydantic_core": ["web/schemas"],
    "redis": ["stores/redis"],
    "structlog": ["observability/logs.py"],
    "typing_extensions": ["web/schemas"],  # what pydantic needs of it before Python 3.12
    "uuid_utils": ["runtime/container.py"],
    "uvloop": ["cli/command.py"],
    "yaml": ["settings"],
    "multidict": ["web"],  # aiohttp's type for headers
    "yarl": ["web"],  # aiohttp's type for a URL
}


def violations(file: str, source: str) -> list[str]:
    """Return what `source`, at the path `file` below proxy/sidegate, may not import."""
    return [
        f"{file}:{line}: {reason}"
        for line, module in _imports(ast.parse(source))
        if (reason := _objection(file, module))
    ]


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and module of each import: at the top, in a function, for types only."""
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


def _objection(file: str, module: str) -> str | None:
    library, *rest = module.split(".")
    layer = PurePosixPath(file).parts[0]
    if library in ("", "?"):
        return "import by the full name, from sidegate down"
    if library in sys.stdlib_module_names:
        return None
    if library == "sidegate":
        allowed = LAYERS.get(layer)
        if allowed is None or (rest and rest[0] in allowed):
            return None
        return f"{layer} may not import {module}"
    if any(PurePosixPath(file).is_relative_to(place) for place in LIBRARIES.get(library, [])):
        return None
    return f"{library} may not be used here"


def packages_imported() -> Mapping[str, set[str]]:
    """Return the packages that each package of ours imports from."""
    imported: dict[str, set[str]] = defaultdict(set)
    for path in files():
        package = _package_of(path)
        for _, module in _imports(ast.parse(path.read_text("utf-8"))):
            target = _package_of(SOURCE.parent / module.replace(".", "/"))
            if module.startswith("sidegate.") and target != package:
                imported[package].add(target)
    return imported


def _package_of(path: Path) -> str:
    """Return the package that holds a module, or a name in a module."""
    while not path.is_dir():
        path = path.parent
    return path.relative_to(SOURCE.parent).as_posix()


# Functions whose third positional parameter is dictated by who calls them.
CALLBACKS = {
    "__exit__": "Python",
    "__aexit__": "Python",
    "handle_error": "aiohttp",
    "_drop_message": "structlog",
    "_escape_control_characters": "structlog",
    "configure": "level, format and stream are what logging calls take in this order",
    "record_lookup": "stores.client.metrics.Observe",
    "count_admin_request": "web.admin.middleware.OnRequest",
}


def positional_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    names = [argument.arg for argument in function.args.posonlyargs + function.args.args]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("path", files(), ids=_name)
def test_file_imports_only_what_its_layer_may(path: Path) -> None:
    assert violations(_name(path), path.read_text("utf-8")) == []


@pytest.mark.parametrize("path", files(), ids=_name)
def test_file_states_its_subject_in_its_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("path", files(), ids=_name)
def test_no_parameter_beyond_the_second_is_positional(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in CALLBACKS:
            assert len(positional_parameters(node)) <= 2, f"{node.name}, line {node.lineno}"


def test_packages_do_not_import_in_a_cycle() -> None:
    imported = packages_imported()

    assert "sidegate/core" in imported["sidegate/services"]
    tuple(TopologicalSorter(imported).static_order())  # raises CycleError, with the cycle


def test_package_cycle_is_reported() -> None:
    with pytest.raises(CycleError):
        tuple(TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_no_file_imports_the_source_root() -> None:
    """`import proxy` finds a namespace package in a checkout, and nothing in an installation."""
    for path in (*files(), *TESTS.rglob("*.py")):
        modules = [module for _, module in _imports(ast.parse(path.read_text("utf-8")))]
        assert "proxy" not in {module.partition(".")[0] for module in modules}, path


def test_every_layer_and_library_folder_exists() -> None:
    for place in (*LAYERS, *(place for places in LIBRARIES.values() for place in places)):
        assert (SOURCE / place).exists(), place


def test_every_path_of_the_map_exists() -> None:
    """The docstring of the package is the map that contributors read first."""
    root = TESTS.parent
    text = ast.get_docstring(ast.parse((SOURCE / "__init__.py").read_text("utf-8"))) or ""
    named = set(re.findall(r"(?<![\w/.])((?:\.?[\w*{},]+/)+(?:[\w*{},]+\.\w+)?)", text))
    missing = [
        path
        for path in named
        if not any(
            any(base.glob(option.rstrip("/")))
            for base in (SOURCE, root)
            for option in _expand_braces(path)
        )
    ]

    assert len(named) > 30
    assert missing == []


def _expand_braces(path: str) -> list[str]:
    """Return `a/b` and `a/c` for `a/{b,c}`."""
    match = re.search(r"\{([^}]*)\}", path)
    if match is None:
        return [path]
    return [path.replace(match[0], option) for option in match[1].split(",")]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/judge.py", "import aiohttp"),
        ("core/judge.py", "from sidegate.services.validator import Validator"),
        ("core/judge.py", "from sidegate import services"),
        ("core/judge.py", "import sidegate.settings"),
        ("core/judge.py", "import sidegate"),
        ("core/judge.py", "import proxy"),
        ("core/judge.py", "from . import token"),
        ("core/judge.py", "def f():\n    import msgspec"),
        ("core/judge.py", "if TYPE_CHECKING:\n    from sidegate.web.gate.check import Check"),
        ("services/sessions.py", "from sidegate.stores.codec import encode"),
        ("services/sessions.py", "from sidegate.settings import Settings"),
        ("stores/memory.py", "from sidegate.observability.metrics import Metrics"),
        ("stores/memory.py", "import redis"),
        ("stores/postgres/sessions.py", "import aiosqlite"),
        ("observability/metrics/table.py", "from sidegate.stores import codec"),
        ("observability/metrics/table.py", "import structlog"),
        ("web/gate/app.py", "from sidegate.stores.codec import encode"),
        ("web/gate/app.py", "from sidegate.runtime.server import serve"),
        ("web/gate/app.py", "import pydantic"),
        ("settings/sections.py", "from sidegate.runtime.server import serve"),
        ("runtime/server.py", "import structlog"),
        ("runtime/server.py", "import a_library_without_a_row"),
        ("stores/memory.py", "import importlib\nimportlib.import_module('sidegate.web')"),
        ("stores/memory.py", "__import__('redis')"),
    ],
)
def test_forbidden_import_is_reported(file: str, source: str) -> None:
    assert len(violations(file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/judge.py", "import re\nfrom collections.abc import Mapping\nimport os.path"),
        ("core/judge.py", "from sidegate.core.verdict import Allow"),
        ("web/admin/app.py", "from sidegate.services import sessions\nfrom aiohttp import web"),
        ("stores/redis/pubsub.py", "from redis.asyncio import Redis"),
        ("runtime/server.py", "from sidegate.web import gate\nfrom sidegate.stores import memory"),
        ("settings/sections.py", "from pydantic import BaseModel\nimport sidegate.core.token"),
    ],
)
def test_allowed_import_passes(file: str, source: str) -> None:
    assert violations(file, source) == []
