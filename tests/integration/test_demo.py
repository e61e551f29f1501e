"""`make demo`, without the installing: from data to a gRPC reply in one command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ray


def test_the_demo_trains_registers_serves_and_calls_three_models(ray_cluster: None, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in ("MLFLOW_TRACKING_URI", "KEEP")}
    environment |= {"RAY_ADDRESS": ray.get_runtime_context().gcs_address, "EAGERLY_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "eagerly", "demo"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for task in ("classifier", "sentiment", "recommender"):
        assert re.search(rf"model version +{task} 1, champion, as there was none", done.stdout)
    for row in (r"classifier +Classify +OK +4", r"sentiment +Analyze +OK +1", r"recommender +Recommend +OK +4"):
        assert re.search(row, done.stdout), done.stdout
