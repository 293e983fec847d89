"""`sidegate gateway`: options, parts, files, and what the settings change."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sidegate.cli.main import main
from sidegate.gateway_config.products import PRODUCTS

PARTS = [(product.name, part.name) for product in PRODUCTS.values() for part in product.parts]


def run(*arguments: str, **settings: str) -> Result:
    environment = {f"SIDEGATE_{name}": value for name, value in settings.items()}
    return CliRunner(env=environment).invoke(main, ["gateway", *arguments])


def show(*arguments: str, **settings: str) -> str:
    result = run(*arguments, **settings)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_part_says_where_it_belongs(name: str, part: str) -> None:
    found = PRODUCTS[name].find_part(part)

    assert found is not None
    address = "sidegate.default.svc.cluster.local:7080"  # some products need a name
    first, *lines = show(name, "--part", part, "--gate", address).splitlines()
    assert first == f"{found.comment} Sidegate: {found.place}"
    assert lines


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_help_lists_the_part(name: str, part: str) -> None:
    assert f"  {name} " in run("--help").output
    assert f" {part} " in run("--help").output


def test_unknown_part_is_refused_with_the_known_ones() -> None:
    result = run("nginx", "--part", "htpp")

    assert result.exit_code == 2
    assert "server" in result.stderr
    assert "at the top of server { }" in result.stderr


def test_unknown_gateway_is_refused_with_the_known_ones() -> None:
    result = run("ngnix")

    assert result.exit_code == 2
    assert "'nginx'" in result.stderr


@pytest.mark.parametrize("part", ["http", "server", "location", "location-full"])
def test_whole_configuration_contains_the_lines_of_the_parts(part: str) -> None:
    whole = {line.strip() for line in show("nginx").splitlines()}
    pasted = [line.strip() for line in show("nginx", "--part", part).splitlines()[1:]]
    only_pasted = "#" if part in ("http", "server") else ("#", "proxy_set_header Upgrade")

    assert {line for line in pasted if not line.startswith(only_pasted)} <= whole


def test_files_are_written_to_a_directory(tmp_path: Path) -> None:
    printed = show("traefik", "--directory", str(tmp_path))

    assert {path.name for path in tmp_path.iterdir()} == {"traefik.yaml", "dynamic.yaml"}
    assert printed.splitlines() == [
        f"wrote {tmp_path / name}" for name in ("traefik.yaml", "dynamic.yaml")
    ]


def test_several_files_are_printed_with_their_names() -> None:
    printed = show("haproxy").splitlines()

    assert "# File: haproxy.cfg" in printed
    assert "-- File: sidegate.lua" in printed


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:7180", "server 127.0.0.1:7180 "),
        (":7180", "server 127.0.0.1:7180 "),
        ("0.0.0.0:7180", "server 127.0.0.1:7180 "),
        ("[::]:7180", "server [::1]:7180 "),
        ("unix:/run/sidegate/gate.sock", "server unix:/run/sidegate/gate.sock "),
    ],
)
def test_gate_is_where_the_settings_say(listen: str, expected: str) -> None:
    assert expected in show("nginx", "--part", "http", GATE__LISTEN=listen)


def test_gates_of_the_command_line_replace_that_of_the_settings() -> None:
    text = show("nginx", "--gate", "10.0.0.5:7080", "--gate", "[fd00::6]:7080")

    assert "server 10.0.0.5:7080 " in text
    assert "server [fd00::6]:7080 " in text
    assert "127.0.0.1:7080" not in text


def test_gate_without_a_fixed_address_has_to_be_named() -> None:
    result = run("nginx", GATE__LISTEN="127.0.0.1:0")

    assert result.exit_code == 78
    assert "--gate" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--upstream", "127.0.0.1:9000"),
        ("--upstream", "ftp://a"),
        ("--upstream", "http://a/path"),
        ("--upstream", "http://a b"),
        ("--upstream", "http://a:99999"),
        ("--upstream", "http://a;}evil"),
        ("--gate", ":7080"),
        ("--gate", "http://a:7080"),
        ("--listen", "8080"),
        ("--internal", "unix:/run/a.sock"),
    ],
)
def test_bad_address_is_refused_with_the_format(option: str, value: str) -> None:
    result = run("nginx", option, value)

    assert result.exit_code == 2
    assert option in result.stderr
    assert "write " in result.stderr


def test_wrong_settings_are_reported() -> None:
    result = run("nginx", GATE__COOKIE="a b")

    assert result.exit_code == 78
    assert "gate.cookie" in result.stderr


def test_names_and_sizes_come_from_the_settings() -> None:
    text = show(
        "nginx",
        GATE__COOKIE="sid",
        GATE__HEADER="X-Session-Token",
        GATE__IDENTITY__USER="Remote-User",
        GATE__MAX_IDENTITY="16KiB",
        GATE__DEADLINE="1s",
        BINDING__HEADER__NAME="X-Device",
    )

    assert "__Host-session" not in text
    assert "sid[ \\t]*(?:=" in text
    assert "proxy_set_header Remote-User $sidegate_remote_user;" in text
    assert "proxy_buffer_size 20k;" in text
    assert "proxy_read_timeout 1350ms;" in text
    assert "proxy_set_header X-Device $http_x_device;" in text
    assert 'proxy_set_header X-Session-Token "";' in text


def test_disabled_sources_are_left_alone() -> None:
    text = show("nginx", GATE__COOKIE="null", GATE__BEARER="false", GATE__HEADER="X-Session-Token")

    assert "$http_cookie" not in text
    assert "$http_authorization" not in text


@pytest.mark.parametrize(
    ("arguments", "settings", "error"),
    [
        (["traefik", "--gate", "unix:/run/sidegate/gate.sock"], {}, "gate.listen: "),
        (["traefik", "--internal", "10.0.0.5:8079"], {}, "--internal: 10.0.0.5 is not a loopback"),
        (["traefik"], {"GATE__HEADER": "X_Token"}, "gate.header: this gateway removes X_Token"),
        (["caddy", "--part", "site"], {"GATE__HEADER": "X.Token"}, "gate.header: "),
        (["caddy"], {"BINDING__HEADER__NAME": "X~Device"}, "binding.header.name: "),
        (["caddy"], {"GATE__IDENTITY__USER": "X~User"}, "gate.identity: "),
    ],
)
def test_what_a_gateway_cannot_do_is_reported(
    arguments: list[str], settings: dict[str, str], error: str
) -> None:
    result = run(*arguments, **settings)

    assert result.exit_code != 0
    assert result.stdout == ""
    assert error in result.stderr
