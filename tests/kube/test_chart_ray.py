"""What the chart asks of Ray itself: where its Pods go, what outlives a head, how its Pods trust each other."""

from pathlib import Path

import pytest
from charts import NAMES, containers, of_kind, pod_templates, rendered

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
