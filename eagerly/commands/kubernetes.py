"""A submitted job as a KubeRay RayJob: on the chart's training cluster, or on its own under Kueue."""

import json
import os
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagerly import steps
from eagerly.commands import orders
from pipelines import jobs, tasks
from pipelines import tracking as store

if TYPE_CHECKING:
    from eagerly.commands.submit import Wish

Manifest = dict[str, Any]
RAY = "2.60.0"
LINGER_SECONDS = 60
"""How long a job's own cluster stays after the job's end, with all that Kueue gave it."""
USER = 1000
RUNS = "/var/lib/eagerly"
"""Where the chart's Pods keep state, on a volume that all of them share."""
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
POD = {
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def write(wish: "Wish") -> int:
    """Prints the RayJob as YAML, or gives it to kubectl; returns the exit code.

    Raises ValueError for what the image does not have: a task of the user's own, and files of this machine.
    """
    import yaml

    _check(wish)
    if wish.submit.queue:
        orders.sendable(wish, os.environ.get("MLFLOW_TRACKING_URI", ""))
    text = yaml.safe_dump(rayjob(wish), sort_keys=False)
    name, space = wish.submit.name, wish.submit.namespace
    if not wish.submit.apply or wish.submit.dry_run:
        print(text, end="")
        for note in wish.notes:
            print(f"# {note}")
        print(f"# next: the same with --apply, or pipe this into `kubectl create -n {space} -f -`")
        return 0
    try:
        done = subprocess.run(["kubectl", "create", "-f", "-"], input=text, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        raise ValueError(
            "--apply needs kubectl, which is not here; leave it out, and apply the output elsewhere"
        ) from None
    if done.returncode:
        taken = "; give another --name" if "AlreadyExists" in done.stderr else ""
        raise ValueError(f"kubectl did not take the RayJob {name!r}: {done.stderr.strip()}{taken}")
    for note in wish.notes:
        print(note)
    print(f"job        {name} is submitted to namespace {space}")
    watch = f"kubectl -n {space} get rayjob {name} -w"
    steps.show(watch, f"kubectl -n {space} delete rayjob {name}  # stops it")
    return 0


def rayjob(wish: "Wish") -> Manifest:
    """Makes the manifest, in the shape of the chart's own."""
    submit = wish.submit
    labels = {**_labels(wish, "training-job"), "eagerly/task": wish.word}
    if submit.queue:
        labels["kueue.x-k8s.io/queue-name"] = submit.queue
    if submit.priority_class:
        labels["kueue.x-k8s.io/priority-class"] = submit.priority_class
    spec: Manifest = {
        "entrypoint": _entrypoint(wish),
        "runtimeEnvYAML": json.dumps({"env_vars": _variables(wish)}),
        "metadata": jobs.metadata(submit.name, wish.word),
        **({"activeDeadlineSeconds": submit.deadline_s} if submit.deadline_s else {}),
        "submissionMode": "K8sJobMode",
        "submitterConfig": {"backoffLimit": 0},
        "submitterPodTemplate": _submitter(wish),
    }
    spec |= _own_cluster(wish) if submit.queue else _charts_cluster(wish)
    metadata = {"name": submit.name, "namespace": submit.namespace, "labels": labels}
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": metadata, "spec": spec}


def _check(wish: "Wish") -> None:
    if wish.word not in tasks.TASKS:
        raise ValueError(
            f"the image has no task {wish.word!r}; submit it with --address, which sends its code, or build it into an "
            "image and name that with --image"
        )
    for name in wish.config.PATHS:
        value = str(getattr(wish.config, name, ""))
        if value and "://" not in value and Path(value).exists():
            flag = "--" + name.replace("_", "-")
            raise ValueError(
                f"{flag} {value!r} is on this machine, and a RayJob's Pods do not see it; put it on the volume of the "
                f"runs and give file://{RUNS}/..., or submit with --address and --storage, which uploads it"
            )


def _entrypoint(wish: "Wish") -> str:
    launch, run_dir = replace(wish.launch, wait=True), f"{RUNS}/runs/{wish.submit.name}"
    if launch.run_dir:
        orders.check_whole(Path(launch.run_dir), "--run-dir", f"a folder on the Pods' volume, {RUNS},")
        launch, run_dir = replace(launch, run_dir=""), launch.run_dir
    elif launch.storage and "://" not in launch.storage:
        orders.check_whole(Path(launch.storage), "--storage", f"a folder on the Pods' volume, {RUNS},")
        launch, run_dir = replace(launch, storage=""), f"{launch.storage}/{wish.submit.name}"
    config = wish.config
    for name in config.PATHS:
        config = replace(config, **{name: str(getattr(config, name)).removeprefix("file://")})
    plan = {"name": wish.submit.name, "task": wish.word, "run_dir": run_dir, "restarts": wish.submit.restarts}
    plan["flags"] = [*orders.words_of(config), *orders.words_of(launch)]
    return f"python -m eagerly.supervisor {shlex.quote(json.dumps(plan, separators=(',', ':')))}"


def _variables(wish: "Wish") -> dict[str, str]:
    """Names the job; its priority too, unless Kueue keeps the order, and the time of one that is submitted at once."""
    submit = wish.submit
    named = {"EAGERLY_JOB": submit.name}
    if not submit.queue:
        named["EAGERLY_JOB_PRIORITY"] = str(submit.priority)
    if submit.apply and not submit.queue:
        named["EAGERLY_JOB_SINCE"] = f"{time.time():.3f}"
    return named


def _charts_cluster(wish: "Wish") -> Manifest:
    group = wish.submit.group or ("gpu" if wish.launch.gpu else "cpu")
    return {
        "clusterSelector": {"ray.io/cluster": f"{_fullname(wish.submit.release)}-training"},
        "entrypointResources": json.dumps({f"training-{group}": 1}),
    }


def _own_cluster(wish: "Wish") -> Manifest:
    """Describes a cluster for this job alone: a Pod a worker, and a head that runs the driver."""
    gpus, workers = int(wish.launch.gpu), int(str(wish.launch.workers).rpartition(":")[2])
    head = _group(wish, "head", {"cpu": "1", "memory": "4Gi"})
    sizes = {"cpu": "1", "memory": "4Gi", **({"nvidia.com/gpu": "1"} if gpus else {})}
    worker = _group(wish, "worker", sizes)
    start = {"num-cpus": "1", **({"num-gpus": "1"} if gpus else {})}
    group = {"groupName": "workers", "replicas": workers, "minReplicas": workers, "maxReplicas": workers}
    return {
        "suspend": True,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": LINGER_SECONDS,
        "rayClusterSpec": {
            "rayVersion": RAY,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"}, "template": head},
            "workerGroupSpecs": [{**group, "numOfHosts": 1, "rayStartParams": start, "template": worker}],
        },
    }


def _group(wish: "Wish", part: str, sizes: dict[str, str]) -> Manifest:
    """Describes the head or a worker, whom the chart's NetworkPolicies take for those of its own training cluster."""
    limits = {kind: size for kind, size in sizes.items() if kind != "cpu"}
    pod = _pod(wish, f"ray-{part}", {"requests": sizes, "limits": limits}, runs=True)
    return {"metadata": {"labels": _labels(wish, f"training-{part}")}, **pod}


def _submitter(wish: "Wish") -> Manifest:
    sizes = {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}}
    pod = _pod(wish, "ray-job-submitter", sizes, runs=False)
    pod["metadata"] = {"labels": _labels(wish, "submitter")}
    pod["spec"]["restartPolicy"] = "Never"
    return pod


def _pod(wish: "Wish", name: str, resources: Manifest, runs: bool) -> Manifest:
    full = _fullname(wish.submit.release)
    environment = [{"name": "HOME", "value": "/tmp"}]
    mounts, volumes = [{"name": "tmp", "mountPath": "/tmp"}], [{"name": "tmp", "emptyDir": {"sizeLimit": "5Gi"}}]
    if runs:
        tracking = os.environ.get("MLFLOW_TRACKING_URI") or f"http://{full}-tracking:5000"
        environment.append({"name": "EAGERLY_HOME", "value": RUNS})
        environment.append({"name": "MLFLOW_TRACKING_URI", "value": store.public(tracking)})
        environment += [_secret(full, "username"), _secret(full, "password")]
        mounts.append({"name": "state", "mountPath": RUNS})
        claim = wish.submit.claim or f"{full}-runs"
        volumes.append({"name": "state", "persistentVolumeClaim": {"claimName": claim}})
    container = {"name": name, "image": wish.submit.image or _image(), "imagePullPolicy": "IfNotPresent"}
    container |= {"env": environment, "resources": resources, "securityContext": CONTAINER, "volumeMounts": mounts}
    quiet = {"automountServiceAccountToken": False, "enableServiceLinks": False, "securityContext": POD}
    return {"spec": {**quiet, "containers": [container], "volumes": volumes}}


def _secret(full: str, key: str) -> Manifest:
    secret = {"name": f"{full}-tracking", "key": key, "optional": True}
    return {"name": f"MLFLOW_TRACKING_{key.upper()}", "valueFrom": {"secretKeyRef": secret}}


def _labels(wish: "Wish", component: str) -> dict[str, str]:
    return {"app.kubernetes.io/instance": wish.submit.release, "app.kubernetes.io/component": component}


def _fullname(release: str) -> str:
    """Names what the objects of a release begin with, as eagerly.fullname of the chart does."""
    return release if "eagerly" in release else f"{release}-eagerly"


def _image() -> str:
    from importlib.metadata import version

    return f"eagerly-train:{version('eagerly')}"
