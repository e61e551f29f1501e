"""The compose file is sound and closed: loopback ports, passwords from files, no more rights than needed."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring import MONITORING, ROOT

FILE = ROOT / "deploy" / "compose.yaml"
LOCK = ROOT / "deploy" / "locked.yaml"
PAGE = ROOT / "docs" / "deploy" / "one-machine.md"
NAMES = {"serve", "mlflow", "postgres", "prometheus", "grafana"}


class Override(yaml.SafeLoader):
    """Reads `!override`, with which Compose takes a list in the place of the first file's, as the list itself."""


def _listed(loader: yaml.SafeLoader, node: yaml.Node) -> list[Any]:
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node)


Override.add_constructor("!override", _listed)


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def locked() -> dict[str, Any]:
    return yaml.load(LOCK.read_text(), Override)


@pytest.mark.parametrize("files", [(FILE,), (FILE, LOCK)], ids=["open", "locked"])
def test_docker_compose_takes_the_files(files: tuple[Path, ...]) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose on this machine")
    named = [word for file in files for word in ("-f", str(file))]
    done = subprocess.run([docker, "compose", *named, "config"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_service_can_do_no_more_than_it_needs(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == NAMES
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged"), name
        assert service["mem_limit"] and service["restart"] == "unless-stopped", name
        assert re.fullmatch(r"\S+:[^:]*\d\S*", service["image"]), name


def test_bind_moves_the_endpoint_alone_and_all_else_stays_on_this_machine(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert ports.pop("postgres") == []
    assert ports.pop("serve") == ["${BIND:-127.0.0.1}:9000:9000"]
    for name, listed in ports.items():
        assert listed and all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in listed), name
    assert compose["services"]["postgres"]["networks"] == ["back"]
    assert compose["networks"]["back"] == {"internal": True}


def test_no_password_stands_in_the_file(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|TOKEN|SECRET", name):
                assert str(value).startswith("/run/secrets/"), name
    assert not re.search(r"://\w+:[^$@\s]+@", FILE.read_text())
    assert {secret["file"] for secret in compose["secrets"].values()} == {"./secrets/database", "./secrets/grafana"}
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_everything_that_is_mounted_or_waited_for_is_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert (FILE.parent / source).exists() if source.startswith("./") else source in compose["volumes"]
        assert set(service.get("secrets", [])) <= set(compose["secrets"])
        assert set(service["networks"]) <= set(compose["networks"])
        for other in service.get("depends_on", {}):
            named = compose["services"][other]
            assert "healthcheck" in named or "eagerly-serve" in named["image"]


def test_prometheus_scrapes_the_endpoint_and_grafana_finds_prometheus_and_the_dashboards(
    compose: dict[str, Any],
) -> None:
    scraped = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    assert scraped["scrape_configs"][0]["static_configs"] == [{"targets": ["serve:9090"]}]
    mounted = " ".join(compose["services"]["prometheus"]["volumes"])
    assert all(f"/etc/prometheus/{name}" in mounted for name in ("prometheus.yaml", *scraped["rule_files"]))
    (source,) = yaml.safe_load((MONITORING / "grafana" / "datasources.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((MONITORING / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert f"./monitoring/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]


def test_the_flags_of_the_endpoint_are_flags(compose: dict[str, Any]) -> None:
    from eagerly import flags
    from eagerly.commands.serve import Serve

    words = [word for word in compose["services"]["serve"]["command"][2:] if not word.startswith("#")]
    assert flags.parse(Serve, words, "eagerly serve").probe_port == 9001


def test_the_file_that_opens_the_door_to_others_locks_it_with_flags_that_there_are(locked: dict[str, Any]) -> None:
    from eagerly import flags
    from eagerly.commands.serve import Serve

    (serve,) = locked["services"].values()
    words = serve["command"]
    assert words[:2] == ["eagerly", "serve"] and "--insecure" not in words
    asked = flags.parse(Serve, words[2:], "eagerly serve")
    assert asked.tls_cert and asked.tokens and asked.probe_port == 9001
    paths = {word.partition("=/run/secrets/")[2] for word in words if "/run/secrets/" in word}
    assert paths == set(serve["secrets"]) == set(locked["secrets"])
    assert serve["ports"] == ["${BIND:-0.0.0.0}:9000:9000"]


def test_the_lock_changes_nothing_but_the_endpoint_s_command_port_and_secrets(
    compose: dict[str, Any], locked: dict[str, Any]
) -> None:
    assert set(locked) == {"services", "secrets"} and set(locked["services"]) == {"serve"}
    assert set(locked["services"]["serve"]) == {"command", "ports", "secrets"}
    assert not set(locked["secrets"]) & set(compose["secrets"])


def test_the_page_puts_every_file_of_the_lock_where_it_is_looked_for(locked: dict[str, Any]) -> None:
    from eagerly import flags
    from eagerly.commands.tokens import New

    page = PAGE.read_text()
    commands = [
        line.split("#")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
    ]
    (made,) = [shlex.split(line)[3:] for line in commands if line.startswith("eagerly tokens new")]
    copied = {shlex.split(line)[2] for line in commands if line.startswith("cp ")}
    put = copied | {str(flags.parse(New, made, "eagerly tokens new").tokens)}
    assert put == {f"deploy/{Path(one['file'])}" for one in locked["secrets"].values()}
    last = max(commands.index(line) for line in commands if "deploy/secrets/" in line)
    assert commands[last + 1 : last + 3] == [
        "sh deploy/compose-secrets.sh",
        "docker compose -f deploy/compose.yaml -f deploy/locked.yaml up --detach",
    ]


def test_the_files_of_the_lock_can_be_read_in_the_container_and_stay_as_they_are(
    tmp_path: Path, locked: dict[str, Any]
) -> None:
    script = tmp_path / "compose-secrets.sh"
    shutil.copy(ROOT / "deploy" / "compose-secrets.sh", script)
    files = [tmp_path / one["file"] for one in locked["secrets"].values()]
    (tmp_path / "secrets").mkdir()
    for file in files:
        file.write_text(file.name)
        file.chmod(0o600)
    subprocess.run(["sh", script], check=True, capture_output=True)
    assert [file.read_text() for file in files] == [file.name for file in files]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_passwords_are_made_once_and_never_changed(tmp_path: Any) -> None:
    script = tmp_path / "compose-secrets.sh"
    shutil.copy(ROOT / "deploy" / "compose-secrets.sh", script)
    made = []
    for _ in range(2):
        subprocess.run(["sh", script], check=True, capture_output=True)
        made.append({path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()})
    assert made[0] == made[1] and set(made[0]) == {"database", "grafana"}
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in made[0].values())
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
