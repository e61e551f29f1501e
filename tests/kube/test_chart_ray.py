"""What the chart asks of Ray itself: where its Pods go, what outlives a head, how its Pods trust each other."""

from pathlib import Path

import pytest
import yaml
from charts import NAMES, containers, of_kind, pod_templates, rendered, template

pytestmark = pytest.mark.usefixtures("chart_tools")


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_workers_are_spread_over_zones_and_nodes_as_far_as_there_are_any(name: str):
    for title, pod in pod_templates(rendered(name)).items():
        if title.startswith(("RayService", "RayCluster")) and not title.endswith("/head"):
            spread = pod["spec"]["topologySpreadConstraints"]
            keys = [one["topologyKey"] for one in spread]
            assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"], title
            for one in spread:
                chosen = dict(one["labelSelector"]["matchLabels"])
                if "ray.io/group" in chosen:  # a label of the operator's
                    assert chosen.pop("ray.io/group") == title.rpartition("/")[2]
                assert chosen.items() <= pod["metadata"]["labels"].items(), title
                assert one["whenUnsatisfiable"] == "ScheduleAnyway"


def test_a_head_that_keeps_its_state_in_redis_has_the_password_from_a_secret():
    (service,) = of_kind(rendered("cpu"), "RayService")
    options = service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert options["redisAddress"] == "redis://redis.state.svc:6379"
    assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}}
    (plain,) = of_kind(rendered(), "RayService")
    assert "gcsFaultToleranceOptions" not in plain["spec"]["rayClusterConfig"]


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")  # ray.serve's own
@pytest.mark.parametrize(
    "values", ["", "serving: {handoverSeconds: 7, options: {noticeSeconds: 5.25, drainSeconds: 40.5}}"]
)
def test_ray_and_the_kubelet_give_a_pod_that_ends_the_time_to_hand_its_replica_over_and_to_answer_its_calls(
    values: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from services.application import build

    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path))
    manifests = [*yaml.safe_load_all(template(values).stdout)]
    (service,) = of_kind(manifests, "RayService")
    application, *_ = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    stop_s = build(application["args"])._bound_deployment._deployment_config.graceful_shutdown_timeout_s
    handover_s = 7 if values else 60
    pods = {title: pod for title, pod in pod_templates(manifests).items() if title.startswith("RayService")}
    for title, pod in pods.items():  # the head too, as Serve's controller lives there
        variables = {one["name"]: one.get("value") for one in containers(pod)[-1]["env"]}
        given_s = int(str(variables["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]))
        assert handover_s + stop_s <= given_s < handover_s + stop_s + 1, title
        assert pod["spec"]["terminationGracePeriodSeconds"] == given_s + 10, title


@pytest.mark.parametrize("name", ["defaults", *NAMES])
def test_a_replica_that_stops_serves_on_for_longer_than_its_pods_readiness_takes_to_notice(name: str):
    for service in of_kind(rendered(name), "RayService"):
        pods = {title.rpartition("/")[2]: pod for title, pod in pod_templates([service]).items()}
        for application in yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]:
            (probe,) = [one["readinessProbe"] for one in containers(pods[application["name"]]) if one.get("ports")]
            assert application["args"]["options"]["notice_s"] > probe["periodSeconds"] * probe["failureThreshold"]


def test_training_on_gpus_scales_by_itself_between_its_bounds():
    (cluster,) = of_kind(rendered("gpu"), "RayCluster")
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    (group,) = cluster["spec"]["workerGroupSpecs"]
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 8)
    assert group["rayStartParams"]["num-gpus"] == "1"
    (worker,) = containers(group["template"])
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert group["template"]["spec"]["nodeSelector"] == {"accelerator": "h100"}


def test_with_rays_tls_every_ray_pod_draws_a_certificate_before_ray_starts_and_none_sees_the_authoritys_key_after():
    for title, pod in pod_templates(rendered("tls-auth")).items():
        if not title.startswith(("RayService", "RayCluster")):
            continue
        drawing, ray = pod["spec"]["initContainers"][0], pod["spec"]["containers"][0]
        assert drawing["command"] == ["python", "/opt/programs/ray_certificate.py"], title
        variables = {one["name"]: one.get("value") for one in ray["env"]}
        assert variables["RAY_USE_TLS"] == "1"
        places = {one["mountPath"]: one["name"] for one in ray["volumeMounts"]}
        assert Path(str(variables["RAY_TLS_SERVER_KEY"])).parent == Path("/etc/ray/tls")
        assert places["/etc/ray/tls"] == "ray-tls" and "ray-authority" not in places.values()
