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


def test_identical_files_are_left_unchanged(tmp_path: Path) -> None:
    show("traefik", "--directory", str(tmp_path))
    (tmp_path / "traefik.yaml").unlink()
    before = (tmp_path / "dynamic.yaml").stat()

    printed = show("traefik", "--directory", str(tmp_path)).splitlines()

    assert printed == [
        f"wrote {tmp_path / 'traefik.yaml'}",
        f"unchanged {tmp_path / 'dynamic.yaml'}",
    ]
    assert (tmp_path / "dynamic.yaml").stat() == before


def test_file_with_another_text_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "dynamic.yaml").write_text("own")

    result = run("traefik", "--directory", str(tmp_path))

    assert result.exit_code == 1
    assert str(tmp_path / "dynamic.yaml") in result.stderr
    assert "--force" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dynamic.yaml"]
    assert (tmp_path / "dynamic.yaml").read_text() == "own"


def test_forced_file_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "nginx.conf"
    path.write_bytes(b"own \xff")
    path.chmod(0o640)

    assert show("nginx", "--directory", str(tmp_path), "--force") == f"wrote {path}\n"
    assert path.read_text() == show("nginx")
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    (tmp_path / "other").touch()

    show("nginx", "--directory", str(tmp_path))

    assert (tmp_path / "nginx.conf").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("target", ["other", "missing"])
def test_link_is_replaced_if_forced_and_never_followed(target: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("own")
    path = tmp_path / "nginx.conf"
    path.symlink_to(tmp_path / target)

    assert run("nginx", "--directory", str(tmp_path)).exit_code == 1
    assert path.is_symlink()

    show("nginx", "--directory", str(tmp_path), "--force")

    assert not path.is_symlink()
    assert path.read_text() == show("nginx")
    assert (tmp_path / "other").read_text() == "own"
    assert not (tmp_path / "missing").exists()


def test_failure_to_write_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "nginx.conf").mkdir()

    result = run("nginx", "--directory", str(tmp_path), "--force")

    assert result.exit_code == 1
    assert "Is a directory" in result.stderr
    assert "choose another --directory" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["nginx.conf"]  # and no draft


def test_directory_that_takes_no_files_is_reported_in_one_line() -> None:
    result = run("nginx", "--directory", "/proc")

    assert result.exit_code == 1
    assert "/proc: the files cannot be written: " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_part_is_not_written_to_a_directory(tmp_path: Path) -> None:
    result = run("nginx", "--part", "http", "--directory", str(tmp_path))

    assert result.exit_code == 2
    assert "--directory takes the whole configuration" in result.stderr
    assert list(tmp_path.iterdir()) == []


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
        ("--gate", 'a;b{}":1'),
        ("--gate", "a{env.HOME}:1"),
        ("--listen", "a b:1"),
        ("--internal", "300.0.0.1:1"),
        ("--upstream", "http://[:::]:1"),
        ("--upstream", "http://-a"),
        ("--listen", "8080"),
        ("--internal", "unix:/run/a.sock"),
    ],
)
def test_bad_address_is_refused_with_the_format(option: str, value: str) -> None:
    result = run("nginx", option, value)

    assert result.exit_code == 2
    assert option in result.stderr
    assert "write " in result.stderr


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(
    "path", ["/run/my dir/x", "/run/a;b", '/run/"', "/run/{x}", "/run/$x", "/ü"]
)
def test_socket_path_with_special_characters_is_refused(name: str, path: str) -> None:
    for result in (run(name, "--gate", f"unix:{path}"), run(name, GATE__LISTEN=f"unix:{path}")):
        assert result.exit_code == 78
        assert result.stdout == ""
        assert f"gate.listen: {path!r} cannot be in a gateway's configuration" in result.stderr


def test_socket_path_with_plain_characters_is_accepted() -> None:
    assert "server unix:/run/@a+b:c_d-1.sock " in show(
        "nginx", "--gate", "unix:/run/@a+b:c_d-1.sock"
    )


def test_what_a_gateway_cannot_do_is_not_called_a_wrong_setting() -> None:
    result = run("traefik", "--gate", "unix:/run/sidegate/gate.sock")

    assert result.exit_code == 78
    assert "traefik cannot be configured with these settings" in result.stderr
    assert "config check" not in result.stderr


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


def test_headers_of_disabled_sources_are_not_touched() -> None:
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
