"""Helm 3 takes a release through its life too, on the real API server with the real operator."""

import pytest
from charts import CHART, program
from planes import Plane, eventually

SPACE, RELEASE = "third", "eagerly-third"


@pytest.fixture(scope="module")
def release(plane: Plane) -> Plane:
    """The defaults, installed by Helm 3."""
    if not program("helm3").exists():
        pytest.skip("no helm3: `make check-tools` installs it")
    plane.add_disks()
    plane.namespace(SPACE)
    output = plane.run("helm3", "install", RELEASE, str(CHART), "-n", SPACE)
    assert output.returncode == 0, output.stderr
    return plane


def image(plane: Plane) -> str:
    """The image of the first worker group, as the RayService has it."""
    (service,) = plane.get("rayservices", SPACE)
    group = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    return str(group["template"]["spec"]["containers"][0]["image"])


def test_what_it_installs_becomes_ready(release: Plane):
    path = '{.status.conditions[?(@.type=="Ready")].status}'
    words = ("get", "rayservice", f"{RELEASE}-serving", "-n", SPACE, "-o", f"jsonpath={path}")
    assert eventually(lambda: release.kubectl(*words) == "True"), release.get("rayservices", SPACE)


def test_it_upgrades_and_rolls_back(release: Plane):
    before = image(release)
    output = release.run("helm3", "upgrade", RELEASE, str(CHART), "-n", SPACE, "--set", "image.tag=0.1.1")
    assert output.returncode == 0, output.stderr
    assert image(release) == "eagerly-serve:0.1.1" != before
    output = release.run("helm3", "rollback", RELEASE, "1", "-n", SPACE)
    assert output.returncode == 0, output.stderr
    assert image(release) == before


def test_it_uninstalls_and_leaves_no_pod(release: Plane):
    output = release.run("helm3", "uninstall", RELEASE, "-n", SPACE, "--wait", "--timeout", "100s")
    assert output.returncode == 0, output.stderr
    assert eventually(lambda: not release.get("pods", SPACE), 90)
