"""What `eagerly submit --kubernetes` writes fits KubeRay's schemas, the chart, and Kueue's conditions."""

import json
import shlex
import subprocess
import time
from typing import Any

import pytest
import yaml
from charts import program, rendered, tools

from eagerly.cli import main
from pipelines import jobs

PLAIN = "submit sentiment --kubernetes --name nightly --workers 2 --epochs 3"
QUEUED = f"{PLAIN} --gpu --queue team-a --priority-class high"


@pytest.fixture
def written(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The manifest that a command writes."""
    assert main(request.param.split()) == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("written", [PLAIN, f"{PLAIN} --gpu --deadline-s 3600", QUEUED], indirect=True)
def test_a_rayjob_fits_the_schema_of_kuberay(written: dict[str, Any], chart_tools: None) -> None:
    schemas = f"{tools()}/schemas/{{{{ .ResourceKind }}}}{{{{ .KindSuffix }}}}.json"
    command = [str(program("kubeconform")), "-strict", "-schema-location", schemas, "-"]
    done = subprocess.run(command, input=yaml.safe_dump(written), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    written["spec"]["unknown"] = 1
    done = subprocess.run(command, input=yaml.safe_dump(written), capture_output=True, text=True, check=False)
    assert "additional properties 'unknown' not allowed" in done.stdout


@pytest.mark.parametrize("written", [PLAIN], indirect=True)
def test_a_rayjob_has_the_shape_of_the_charts_own(written: dict[str, Any], chart_tools: None) -> None:
    (chart,) = [
        yaml.safe_load(one["data"]["rayjob.json"]) for one in rendered("cpu") if "rayjob.json" in one.get("data", {})
    ]
    ours, theirs = written["spec"], chart["spec"]
    same = ("clusterSelector", "entrypointNumCpus", "entrypointResources", "submissionMode", "submitterConfig")
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}
    mine, pod = ours["submitterPodTemplate"]["spec"], theirs["submitterPodTemplate"]["spec"]
    assert mine["securityContext"] == pod["securityContext"]
    for key in ("image", "name", "resources", "securityContext", "volumeMounts", "env"):
        assert mine["containers"][0][key] == pod["containers"][0][key]
    assert written["metadata"]["labels"].items() >= chart["metadata"]["labels"].items()


@pytest.mark.parametrize("written", [PLAIN], indirect=True)
def test_a_rayjob_runs_the_supervisor_with_the_flags_and_its_place_in_our_queue(written: dict[str, Any]) -> None:
    *words, plan = shlex.split(written["spec"]["entrypoint"])
    assert words == ["python", "-m", "eagerly.supervisor"]
    assert set(json.loads(plan)["flags"]) == {"--epochs=3", "--workers=2", "--wait"}
    assert json.loads(plan)["run_dir"] == "/var/lib/eagerly/runs/nightly"
    variables = json.loads(written["spec"]["runtimeEnvYAML"])["env_vars"]
    assert variables == {"EAGERLY_JOB": "nightly", "EAGERLY_JOB_PRIORITY": "0"}


@pytest.mark.parametrize("written", [PLAIN, QUEUED], indirect=True)
def test_a_rayjob_gives_the_jobs_server_the_name_and_task_by_which_it_is_listed(written: dict[str, Any]) -> None:
    assert written["spec"]["metadata"] == jobs.metadata("nightly", "sentiment")
    assert written["spec"]["metadata"] == {"eagerly_name": "nightly", "eagerly_task": "sentiment"}


@pytest.mark.parametrize("written", [f"{PLAIN} --apply --dry-run"], indirect=True)
def test_a_rayjob_that_is_submitted_at_once_has_its_place_in_our_queue_by_now(written: dict[str, Any]) -> None:
    since = float(json.loads(written["spec"]["runtimeEnvYAML"])["env_vars"]["EAGERLY_JOB_SINCE"])
    assert abs(time.time() - since) < 600


@pytest.mark.parametrize("written", [QUEUED], indirect=True)
def test_a_rayjob_of_kueues_has_a_suspended_cluster_of_its_own_and_its_labels(written: dict[str, Any]) -> None:
    labels = written["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-a" and labels["kueue.x-k8s.io/priority-class"] == "high"
    spec = written["spec"]
    assert spec["suspend"] and spec["shutdownAfterJobFinishes"] and "clusterSelector" not in spec
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "EAGERLY_JOB_PRIORITY" not in spec["runtimeEnvYAML"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("submit ./examples/linear_regression --kubernetes", "the image has no task"),
        ("submit sentiment --kubernetes --data README.md", "a RayJob's Pods do not see it; put it on the volume"),
        ("submit sentiment --kubernetes --apply", "--apply needs kubectl, which is not here"),
    ],
)
def test_what_kubernetes_cannot_run_is_one_sentence(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(line.split()) == 2
    assert sentence in capsys.readouterr().err
