"""`eagerly serve --gpu` on a cluster without a GPU, and on one that only claims to have one."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.serving import convnet
from eagerly.commands.serve import Serve, serving

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
CLAIMED = """
import sys, pathlib, ray
from benchmarks.serving import convnet
from eagerly.commands.serve import Serve, serving
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False)
stored = convnet(pathlib.Path(sys.argv[1]) / "convnet")
args = Serve(services=("classifier",), port=0, metrics_port=0, gpu=True, gpus_per_replica=0.5, replicas=2)
try:
    with serving(args, [stored]):
        print("serves")
except ValueError as problem:
    print(problem)
"""


def test_a_cluster_without_a_gpu_is_refused_with_the_way_out(ray_cluster: None, tmp_path: Path):
    import ray

    if ray.cluster_resources().get("GPU"):
        pytest.skip("no GPU must be there for this")
    args = Serve(services=("classifier",), port=0, metrics_port=0, gpu=True)
    with (
        pytest.raises(ValueError, match="the cluster has no GPU; leave out --gpu"),
        serving(args, [convnet(tmp_path / "convnet")]),
    ):
        pass


def test_replicas_get_their_share_of_a_gpu_and_try_to_compute_on_it(tmp_path: Path):
    command = [sys.executable, "-c", CLAIMED, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.strip().splitlines()[-1]
    assert said == "serves" or said.startswith("--gpu: torch finds no GPU that it can use here")
