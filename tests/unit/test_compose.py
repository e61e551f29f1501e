"""The compose file is sound and closed: loopback ports, passwords from files, no more rights than needed."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml
from monitoring import MONITORING, ROOT

FILE = ROOT / "deploy" / "compose.yaml"
NAMES = {"serve", "mlflow", "postgres", "prometheus", "grafana"}


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


def test_docker_compose_takes_the_file() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no docker compose on this machine")
    done = subprocess.run([docker, "compose", "-f", FILE, "config"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_service_can_do_no_more_than_it_needs(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == NAMES
    for name, service in compose["services"].items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and not service.get("privileged"), name
        assert service["mem_limit"] and service["restart"] == "unless-stopped", name
        assert re.fullmatch(r"\S+:[^:]*\d\S*", service["image"]), name


def test_every_port_is_this_machines_alone_and_postgres_has_none(compose: dict[str, Any]) -> None:
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert ports.pop("postgres") == []
    assert all(re.fullmatch(r"\$\{BIND:-127\.0\.0\.1\}:\d+:\d+", port) for one in ports.values() for port in one)
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


def test_the_page_that_opens_the_door_to_others_locks_it_with_flags_that_there_are() -> None:
    from eagerly import flags
    from eagerly.commands.serve import Serve

    page = (ROOT / "docs" / "deploy" / "one-machine.md").read_text()
    (listed,) = re.findall(r"^    command: \[(.+?)\]$", page, re.DOTALL | re.MULTILINE)
    words = [word.strip() for word in listed.split(",")]
    assert words[:2] == ["eagerly", "serve"] and "--insecure" not in words
    flags.parse(Serve, words[2:], "eagerly serve")
    paths = {word.partition("=/run/secrets/")[2] for word in words if "/run/secrets/" in word}
    (mounted,) = re.findall(r"^    secrets: \[(.+?)\]$", page, re.MULTILINE)
    assert paths == set(mounted.split(", ")) == set(re.findall(r"^  (\w+): \{file: ", page, re.MULTILINE))


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
