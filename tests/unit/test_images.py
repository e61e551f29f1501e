"""The images are made of locked packages, run as nobody special, and say what is in them."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import endpoints
import pytest
from monitoring import ROOT, tool

DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
TARGETS = ("serve", "serve-cuda", "train", "client")
HASH = "--hash=sha256:" + "0" * 64
STATUS = """Package: tzdata
Status: install ok installed
Architecture: all
Version: 1:2025b~rc1
Description: time zones
 Status: not a field but a line of the text

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0

Package: libstdc++6
Status: install ok installed
Multi-Arch: same
Architecture: amd64
Source: gcc-12
Version: 12.2.0-14+deb12u1
"""


def stages() -> dict[str, str]:
    """The text of each stage by its name."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return {parts[at + 1]: parts[at + 2] for at in range(1, len(parts), 3)}


def ancestry(name: str) -> list[str]:
    """A stage with all that it stands on, the base left out."""
    parents = {stage: parent for parent, stage in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE)}
    found = []
    while name in parents:
        found.append(name)
        name = parents[name]
    return found


def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run([tool("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_list_of_contents_is_made_from_the_packages_of_the_image_that_it_goes_into() -> None:
    known = {
        build: re.findall(r"^COPY --from=(\S+) /var/lib/dpkg/status ", text, re.MULTILINE)
        for build, text in (
            (one, "".join(stages()[part] for part in ancestry(one))) for one in stages() if one.startswith("build-")
        )
    }
    for target in TARGETS:
        build = f"build-{ {'serve': 'cpu', 'client': 'client'}.get(target, 'cuda') }"
        (last,) = known[build]
        since = ancestry(target)[: ancestry(target).index(last)]
        assert not any(re.search(r"^RUN", stages()[one], re.MULTILINE) for one in since), "what would add packages"


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_no_root_no_compiler_no_installer_and_says_what_it_is(target: str) -> None:
    text = "".join(stages()[one] for one in ancestry(target))
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["1000:1000"]
    assert not re.search(r"\b(?:gcc|g\+\+|build-essential|clang|python3-pip|python3\.11-venv|curl)\b", text)
    assert "org.opencontainers.image.version" in stages()[target] and f'title="eagerly-{target}"' in stages()[target]
    assert re.search(r"^HEALTHCHECK ", stages()[target], re.MULTILINE)
    assert f"COPY --from=build-{ {'serve': 'cpu', 'client': 'client'}.get(target, 'cuda') }" in text


def test_no_image_is_of_a_moving_latest_tag() -> None:
    compose = (DEPLOY / "compose.yaml").read_text()
    assert not re.search(r":latest\b", DOCKERFILE + compose)
    assert re.findall(r"^ARG BASE=\S+:\S+$", DOCKERFILE, re.MULTILINE)


def test_every_file_that_the_build_copies_is_let_into_its_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert names == allowed
    assert all((ROOT / name).exists() for name in names)


def test_make_images_says_what_it_needs_where_there_is_no_engine(tmp_path: Path) -> None:
    for name in ("sh", "sed", "dirname", "git"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    done = subprocess.run(
        ["sh", DEPLOY / "images.sh"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("make images needs docker with its daemon running, podman or buildah; none")


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_make_images_builds_every_target_with_the_engine_that_works(tmp_path: Path, engine: str) -> None:
    for name in ("sh", "sed", "dirname", "git"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    (tmp_path / engine).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / engine).chmod(0o755)
    environment = {"PATH": str(tmp_path), "PREFIX": "registry.example.org/team/", "TAG": "7"}
    done = subprocess.run(["sh", DEPLOY / "images.sh"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = re.findall(r"^build .*--target (\S+) --tag (\S+) ", (tmp_path / "asked").read_text(), re.MULTILINE)
    assert built == [(name, f"registry.example.org/team/eagerly-{name}:7") for name in TARGETS]


def test_the_clients_lock_is_a_part_of_the_whole_one() -> None:
    whole = (ROOT / "requirements.lock").read_text().splitlines()
    part = (ROOT / "requirements-client.lock").read_text().splitlines()
    pins = {line.rstrip(" \\") for line in part if "==" in line}
    assert pins <= {line.rstrip(" \\") for line in whole if "==" in line}
    assert pins and not any(line.startswith(("torch", "ray", "mlflow", "numpy")) for line in pins)
    assert sum("--hash=sha256:" in line for line in part) >= len(pins)


def test_the_list_of_contents_names_every_package_with_the_hashes_of_its_lock(tmp_path: Path) -> None:
    for name, version in (("Some_Thing", "1.2"), ("eagerly", "0.1.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: MIT\n"
        )
    (tmp_path / "lock").write_text(f"some-thing==1.2 \\\n    {HASH}\n")
    (tmp_path / "status").write_text(STATUS)
    command = [sys.executable, DEPLOY / "sbom.py", tmp_path / "lock", tmp_path, tmp_path / "status"]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (told["bomFormat"], told["specVersion"]) == ("CycloneDX", "1.6")
    assert told["metadata"]["component"]["purl"] == "pkg:pypi/eagerly@0.1.0"
    one, *of_debian = told["components"]
    assert (one["purl"], one["licenses"]) == ("pkg:pypi/some-thing@1.2", [{"license": {"name": "MIT"}}])
    assert one["externalReferences"][0]["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    assert [(part["name"], part["version"], part["purl"]) for part in of_debian] == [
        ("libstdc++6", "12.2.0-14+deb12u1", "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64"),
        ("tzdata", "1:2025b~rc1", "pkg:deb/debian/tzdata@1:2025b~rc1?arch=all"),
    ], "what was removed is not there"


def test_the_health_check_tells_an_endpoint_that_serves_from_none(tmp_path: Path) -> None:
    def healthy(port: int) -> int:
        environment = {**os.environ, "EAGERLY_PROBE": f"127.0.0.1:{port}", "PYTHONPATH": str(ROOT)}
        return subprocess.run([sys.executable, DEPLOY / "health.py"], env=environment, check=False).returncode

    with endpoints.serving([endpoints.loaded("sentiment", endpoints.Gate())], tmp_path, probe_port=0) as endpoint:
        port = endpoint.server.probe_port
        assert healthy(port) == 0
    assert healthy(port) == 1


@pytest.fixture
def copied() -> Iterator[Path]:
    """Torch's and CUDA's libraries once more, as links to the same contents: they are gigabytes."""
    import torch

    site = Path(torch.__file__).parents[1]
    with tempfile.TemporaryDirectory(dir=site.parent) as folder:
        for name in ("torch/lib", "nvidia"):
            shutil.copytree(site / name, Path(folder, name), copy_function=os.link, symlinks=True)
        Path(folder, "triton").mkdir()
        yield Path(folder)


def test_pruning_keeps_the_libraries_that_torch_is_linked_to_and_no_others(copied: Path) -> None:
    subprocess.run([sys.executable, DEPLOY / "prune_cuda.py", copied], capture_output=True, check=True)
    listed = subprocess.run(
        ["ldd", copied / "torch/lib/libtorch_python.so"], capture_output=True, text=True, check=True
    ).stdout
    assert "not found" not in listed
    left = {path.name for path in (copied / "nvidia").rglob("*.so*")}
    assert "libcublas.so.13" in left and "libcudnn_ops.so.9" not in left
    assert not (copied / "triton").exists()
