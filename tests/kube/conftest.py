"""What the tests of the chart share: the tools, and a control plane on loopback."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from charts import MISSING, ROOT, program
from planes import Plane, control_plane

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def chart_tools() -> None:
    """Skips where Helm and kubeconform are not."""
    if not all(program(name).exists() for name in ("helm", "kubeconform")):
        pytest.skip(MISSING)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """A control plane with the operator, whose Ray dashboards say yes to everything."""
    scripts = Path(os.environ.get("EAGERLY_KUBE") or ROOT.parent / "shared" / "kube")
    if os.environ.get("EAGERLY_CONTROL_PLANE") != "1":
        pytest.skip("no control plane: `make test-kube` starts one")
    if not (scripts / "up.sh").exists() or not program("kube").exists():
        pytest.skip("no control plane: EAGERLY_KUBE names no folder with up.sh, or `make check-tools` has not run")
    stub = subprocess.Popen(
        [sys.executable, "-u", str(HERE / "dashboard.py")], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert stub.stdout is not None
    try:
        with control_plane(scripts, tmp_path_factory.mktemp("plane"), stub.stdout.readline().strip()) as plane:
            yield plane
    finally:
        stub.kill()
        stub.communicate()
