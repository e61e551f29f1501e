"""What the pages about a cluster of one's own have one write is what Ray Serve, the endpoint and Compose take."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring import ROOT
from test_compose import FILE, Override

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs/deploy/one-cluster.md").read_text(), re.DOTALL | re.MULTILINE)
CONFIG, CLUSTER = BLOCKS


def test_the_config_file_of_the_page_is_one_that_ray_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    described = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG))
    assert described.proxy_location == "Disabled"
    assert [one.import_path for one in described.applications] == ["services.application:build"]


def test_the_config_file_of_the_page_describes_a_locked_endpoint_of_two_replicas() -> None:
    from services import application

    (asked,) = yaml.safe_load(CONFIG)["applications"]
    deployment = application.build(asked["args"])._bound_deployment
    assert deployment.num_replicas == 2
    options = application.options(asked["args"]["options"])
    files = [options.tls_cert, options.tls_key, options.tokens]
    assert not options.insecure and all(isinstance(file, Path) and file.is_absolute() for file in files)


def test_the_page_names_every_argument_that_a_config_file_may_have() -> None:
    from services import application

    page = (ROOT / "docs/deploy/one-cluster.md").read_text()
    assert [name for name in application.ARGUMENTS if f"`{name}`" not in page] == []


def test_the_file_that_opens_mlflow_to_a_cluster_lets_its_own_address_in_and_keeps_the_rest() -> None:
    (opened,) = yaml.load(CLUSTER, Override)["services"].items()
    first: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"][opened[0]]
    assert opened[0] == "mlflow" and set(first["ports"]) < set(opened[1]["ports"])
    was, now = (one["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",") for one in (first, opened[1]))
    (more,) = set(opened[1]["ports"]) - set(first["ports"])
    assert set(now) == {*was, more.removesuffix(":5000")}
