"""The application builder of config files: what it takes, and the sentences for what it does not."""

import pytest

from services.store import Store

pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`:DeprecationWarning")
ASKED = {
    "tasks": ["sentiment"],
    "scaling": {"replicas": 1, "max_replicas": 3},
    "cpus": 2,
    "options": {"host": "0.0.0.0", "port": 9002, "insecure": True, "probe_host": "0.0.0.0", "probe_port": 9100},
}


def test_a_config_file_describes_an_endpoint_that_scales():
    from services import application

    deployment = application.build(ASKED)._bound_deployment
    config = deployment._deployment_config.autoscaling_config
    assert config is not None and deployment.ray_actor_options is not None
    assert (deployment.name, config.min_replicas, config.max_replicas) == ("endpoint", 1, 3)
    assert deployment.ray_actor_options["num_cpus"] == 2
    assert not deployment.ray_actor_options["num_gpus"]


def test_a_config_file_may_ask_for_a_gpu_a_replica():
    from services import application

    options = application.build({**ASKED, "gpu": True})._bound_deployment.ray_actor_options
    assert options is not None
    assert options["num_gpus"] == 1


def test_replicas_of_a_config_file_may_share_a_gpu():
    from services import application

    options = application.build({**ASKED, "gpu": True, "gpus_per_replica": 0.5})._bound_deployment.ray_actor_options
    assert options is not None
    assert options["num_gpus"] == 0.5


def test_replicas_wait_for_their_first_model_as_long_as_it_takes(tmp_path, monkeypatch):
    from services import application

    monkeypatch.setenv("EAGERLY_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    bound = application.build(ASKED)._bound_deployment
    (stored,) = [one for one in bound.init_args if isinstance(one, list)]
    (store,) = [one for one in bound.init_args if isinstance(one, Store)]
    assert [one.service for one in stored] == ["sentiment"]
    assert (store.home, store.uri, store.patience_s) == (str(tmp_path), "http://tracking:5000", float("inf"))


def test_files_are_those_of_the_replicas_node_and_need_not_be_here():
    from services import application

    files = {
        "tls_cert": "/etc/eagerly/tls/tls.crt",
        "tls_key": "/etc/eagerly/tls/tls.key",
        "tokens": "/etc/eagerly/t/t",
    }
    chosen = application.options({"host": "0.0.0.0", **files})
    assert str(chosen.tls_cert) == files["tls_cert"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"replicas": 3}, "args has replicas; it may have tasks, options, scaling, cpus, gpu, gpus_per_replica"),
        ({"gpus_per_replica": 0.5}, "--gpus-per-replica needs --gpu"),
        ({"tasks": []}, "args.tasks is []; it must list at least one task of classifier, sentiment, recommender"),
        ({"tasks": ["sentimnet"]}, "unknown task 'sentimnet'"),
        ({"options": {"prot": 9000}}, "args.options has prot; it may have host, port"),
        ({"options": {"host": "0.0.0.0"}}, "--host 0.0.0.0 can be reached from other machines"),
        ({"options": {"poll_s": 0}}, "args.options.poll_s is 0"),
        ({"scaling": {"most": 3}}, "args.scaling has most; it may have replicas, max_replicas"),
        ({"scaling": {"replicas": 0}}, "--replicas is 0; the least allowed is 1"),
    ],
)
def test_what_is_not_understood_is_refused_in_a_sentence(change, sentence):
    from services import application

    with pytest.raises(ValueError) as refused:  # noqa: PT011
        application.build({**ASKED, **change})
    assert sentence in str(refused.value)
