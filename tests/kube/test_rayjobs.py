"""What `eagerly submit --kubernetes` writes fits KubeRay's schemas, the chart, and Kueue's conditions."""

import json
import shlex
import subprocess
import time
from typing import Any

import pytest
import yaml
from charts import CHART, KUBERNETES, NAMES, Manifest, helm, of_kind, program, rendered, tools
from policies import Place, Policies

from eagerly.cli import main
from pipelines import jobs

PLAIN = "submit sentiment --kubernetes --name nightly --workers 2 --epochs 3"
QUEUED = f"{PLAIN} --gpu --queue team-a --priority-class high"


@pytest.fixture
def written(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The manifest that a command writes."""
    return submitted(request.param, capsys)


def submitted(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(line.split()) == 0
    return yaml.safe_load(capsys.readouterr().out)


def of_release(release: str) -> list[Manifest]:
    """The chart under another name, with a volume for runs."""
    words = ("template", release, str(CHART), "--namespace", "eagerly", "--kube-version", KUBERNETES)
    output = helm(*words, values="training: {storage: {size: 10Gi}}")
    assert output.returncode == 0, output.stderr
    return [one for one in yaml.safe_load_all(output.stdout) if one]


def charts_jobs(manifests: list[Manifest]) -> list[Manifest]:
    return [yaml.safe_load(one["data"]["rayjob.json"]) for one in manifests if "rayjob.json" in one.get("data", {})]


def place(template: Manifest, **labels: str) -> Place:
    return Place({**template["metadata"]["labels"], **labels})


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
    (chart,) = charts_jobs(rendered("cpu"))
    ours, theirs = written["spec"], chart["spec"]
    same = ("clusterSelector", "entrypointResources", "submissionMode", "submitterConfig")
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


@pytest.mark.parametrize("written", [QUEUED], indirect=True)
def test_a_rayjob_of_kueues_gives_back_what_it_holds_a_minute_after_its_end(written: dict[str, Any]) -> None:
    assert written["spec"]["ttlSecondsAfterFinished"] == 60


@pytest.mark.parametrize("written", [f"{QUEUED} --release ml"], indirect=True)
def test_a_cluster_of_a_jobs_own_is_as_closed_as_the_charts_and_reaches_what_that_one_does(
    written: dict[str, Any], chart_tools: None
) -> None:
    manifests = of_release("ml")
    policies, cluster = Policies(manifests), written["spec"]["rayClusterSpec"]
    (charts,) = of_kind(manifests, "RayCluster")
    assert cluster["authOptions"] == charts["spec"]["authOptions"] == {"mode": "token"}
    submitter = place(written["spec"]["submitterPodTemplate"])
    head = place(cluster["headGroupSpec"]["template"], **{"ray.io/group": "headgroup"})
    worker = place(cluster["workerGroupSpecs"][0]["template"], **{"ray.io/group": "workers"})
    tracking = Place({"app.kubernetes.io/instance": "ml", "app.kubernetes.io/component": "tracking"})
    assert policies.allow(submitter, head, 8265) and not policies.allow(submitter, worker, 8265)
    assert policies.allow(worker, head, 6379) and policies.allow(head, worker, 10002)
    assert policies.allow(head, tracking, 5000) and policies.allow(worker, tracking, 5000)
    for stranger in (Place({"app": "neighbour"}), Place(head.labels, namespace="elsewhere")):
        assert not any(policies.allow(stranger, pod, port) for pod in (head, worker) for port in (6379, 8265, 10001))
    chosen = [one["spec"]["selector"] for one in of_kind(manifests, "Service")]
    chosen += [one["spec"]["selector"]["matchLabels"] for one in of_kind(manifests, "PodDisruptionBudget")]
    assert chosen and not any(one.items() <= pod.labels.items() for one in chosen for pod in (head, worker))


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_the_charts_own_rayjob_waits_for_its_pods_and_leaves_their_cpus_to_workers(
    name: str, chart_tools: None
) -> None:
    for job in charts_jobs(rendered(name)):
        assert shlex.split(job["spec"]["entrypoint"])[-1] == "--wait" and job["spec"]["activeDeadlineSeconds"]
        assert "entrypointNumCpus" not in job["spec"] and "training-" in job["spec"]["entrypointResources"]


@pytest.mark.parametrize("written", [PLAIN, QUEUED], indirect=True)
def test_a_rayjob_that_waits_holds_no_cpu(written: dict[str, Any]) -> None:
    assert "entrypointNumCpus" not in written["spec"]


@pytest.mark.parametrize("release", ["ml", "eagerly", "eagerly-2"])
def test_a_rayjob_finds_what_a_release_of_any_name_has_made(
    release: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, chart_tools: None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    manifests = of_release(release)
    (chart,) = charts_jobs(manifests)
    plain = submitted(f"{PLAIN} --release {release}", capsys)["spec"]
    assert plain["clusterSelector"] == chart["spec"]["clusterSelector"]
    labels = chart["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert plain["submitterPodTemplate"]["metadata"]["labels"] == labels
    own = submitted(f"{QUEUED} --release {release}", capsys)["spec"]["rayClusterSpec"]
    (cluster,) = of_kind(manifests, "RayCluster")
    for ours, theirs in zip(_pods(own), _pods(cluster["spec"]), strict=True):
        assert ours["metadata"]["labels"] == theirs["metadata"]["labels"]
        assert _tracking(ours) == _tracking(theirs) and _claim(ours) == _claim(theirs)


def _pods(cluster: Manifest) -> list[Manifest]:
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def _tracking(pod: Manifest) -> list[tuple[str, str]]:
    """The address of MLflow and the Secret with its user."""
    found = [one for one in pod["spec"]["containers"][0]["env"] if one["name"].startswith("MLFLOW_")]
    return sorted(
        (one["name"], one["value"] if "value" in one else one["valueFrom"]["secretKeyRef"]["name"]) for one in found
    )


def _claim(pod: Manifest) -> Manifest:
    (found,) = [one["persistentVolumeClaim"] for one in pod["spec"]["volumes"] if one["name"] == "state"]
    return found


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
