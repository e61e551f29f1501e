"""An endpoint as an application of a Ray Serve config file, which is how Kubernetes deploys it.

    applications:
      - name: sentiment
        import_path: services.application:build
        args:
          tasks: [sentiment]
          scaling: {replicas: 1, max_replicas: 3}
          cpus: 2
          gpu: false
          options: {host: 0.0.0.0, port: 9002, insecure: true}

MLFLOW_TRACKING_URI names the registry and EAGERLY_HOME the folder of models, the same on every node. Each replica
fetches the champions onto its own node and waits as long as there is none: until then its ports are closed. A config
file with ray_actor_options of the deployment `endpoint` replaces all that the endpoint asks for, the environment too.
"""

import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

from ray import serve

from pipelines import tasks
from services import endpoint, hosting
from services.models import Stored
from services.options import Options
from services.resources import Hardware, Resources
from services.scaling import Scaling
from services.store import Store

ARGUMENTS = ("tasks", "options", "scaling", "cpus", "gpu", "gpus_per_replica")
FILES = ("tls_cert", "tls_key", "client_ca", "tokens", "jwks")
"""Options that are files; they must be there on the nodes of replicas, not where the config is read."""


def build(args: dict[str, Any]) -> serve.Application:
    """Describes the endpoint that the arguments of a config file ask for.

    Raises ValueError for an argument, option or task that there is not, and for a value out of range.
    """
    _check("args", args, ARGUMENTS)
    words = args.get("tasks") or []
    if not isinstance(words, list) or not words:
        raise ValueError(f"args.tasks is {words!r}; it must list at least one task of {', '.join(tasks.TASKS)}")
    chosen = options(args.get("options") or {})
    if not chosen.poll_s:
        raise ValueError(
            "args.options.poll_s is 0; replicas of a config file get their models by looking at the registry"
        )
    scaling = args.get("scaling") or {}
    _check("args.scaling", scaling, [field.name for field in fields(Scaling)])
    resources = Resources(bool(args.get("gpu", False)), float(args.get("gpus_per_replica", 0)))
    store = hosting.store()
    return endpoint.application(
        chosen,
        [_awaited(word) for word in words],
        str(Path(tempfile.gettempdir()) / f"eagerly-metrics-{chosen.port}"),
        Hardware(Scaling(**scaling), resources, float(args.get("cpus", 1))),
        Store(store.home, store.uri, patience_s=float("inf")),
    )


def options(given: dict[str, Any]) -> Options:
    """Reads an endpoint's options; raises ValueError for one that there is not, or a value out of range."""
    _check("args.options", given, [field.name for field in fields(Options)])
    files = {name: Path(value) for name, value in given.items() if name in FILES and value}
    return Options(**{**given, **files})


def _awaited(word: str) -> Stored:
    """A task whose model is still to come; which version it is, the registry says."""
    found = tasks.find(word)
    return Stored(found.name, "", 0, "", "", task="" if word in tasks.TASKS else str(found.folder))


def _check(where: str, given: dict[str, Any], known: list[str] | tuple[str, ...]) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{where} has {', '.join(unknown)}; it may have {', '.join(known)}")
