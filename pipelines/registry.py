"""Versions and aliases of models in MLflow's registry."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import deciding, outages, tracking
from pipelines.verdict import Verdict

CHAMPION = "champion"
HISTORY = "eagerly.champions"
"""Tag of a registered model: the versions that were champion, oldest first, as a JSON list."""
DIGEST, METRICS, PRIMARY, GATE = "eagerly.digest", "eagerly.metrics", "eagerly.primary", "eagerly.gate"
"""Tags of a version: the artifact's digest, its test metrics as JSON, which of them decides, and what the gate said."""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    name: str
    version: int
    run_id: str
    digest: str
    """SHA-256 of the artifact's MANIFEST.json."""
    source: str
    """Where MLflow keeps the artifact folder."""
    metrics: dict[str, float]
    """Test metrics."""
    primary: str
    """Which metric decides about champion; higher is better."""
    champion: bool
    gate: str = ""
    """Why it became champion or did not, when it was registered or judged again."""


Judge = Callable[[Version, Version], Verdict]
"""Says whether a new version may take the champion's place."""


@dataclass(frozen=True)
class Aim:
    """What a registered model says of its versions; cheap to ask for again and again."""

    created: int
    """When the model was registered, in ms: made anew, it counts its versions anew."""
    champion: int | None
    """The version that is to serve."""
    tags: Mapping[str, str] = field(default_factory=dict, compare=False)
    """The tags of the registered model."""


def register(
    name: str,
    source: str,
    run_id: str,
    digest: str,
    metrics: dict[str, float],
    primary: str,
    promotion: str,
    judge: Judge | None = None,
) -> tuple[Version, str]:
    """Registers a version; returns it and a sentence that says whether it became champion and why.

    `promotion` is gate, always or never. The version is there before `judge` is asked, so that nothing is lost when
    that is cut short. A run whose model was registered already, as before a retry, gets no second version.
    """
    client = _client()
    if not _exists(name):
        client.create_registered_model(name)
    new = next((known for known in versions(name) if (known.run_id, known.digest) == (run_id, digest)), None)
    if new is not None and new.gate:
        return new, f"registered before: {new.gate}"
    if new is None:
        tags = {DIGEST: digest, METRICS: json.dumps(metrics), PRIMARY: primary}
        new = get(name, int(client.create_model_version(name, source, run_id=run_id, tags=tags).version))
    return settle(new, promotion, judge)


def settle(new: Version, promotion: str, judge: Judge | None = None) -> tuple[Version, str]:
    """Decides whether a registered version becomes champion; returns it and why, which its tag keeps.

    Where there is no judge, the gate compares the primary test metrics alone. A promotion that was cut short is carried
    out as it was decided.
    """
    old, client = _champion(new.name), _client()
    tags = client.get_model_version(new.name, str(new.version)).tags
    better, reason = deciding.unfinished(tags, new, old) or _decide(new, old, promotion, judge or deciding.by_metric)
    if better:
        promote(new.name, new.version)
    client.set_model_version_tag(new.name, str(new.version), GATE, reason)
    return get(new.name, new.version), reason


def _decide(new: Version, old: Version | None, promotion: str, judge: Judge) -> tuple[bool, str]:
    better, reason = deciding.compare(new, old, promotion, judge)
    now = _champion(new.name)
    if better and promotion == "gate" and now is not None and now.version not in (new.version, old and old.version):
        better, reason = False, f"not champion: version {now.version} became champion while it was judged"
    if promotion == "gate" and not better:
        reason = f"{reason}; `eagerly models promote {new.name} {new.version}` overrules"
    note = deciding.note(better, reason, old)
    _client().set_model_version_tag(new.name, str(new.version), deciding.DECIDED, note)
    return better, reason


def promote(name: str, version: int) -> Version:
    """Makes a version champion and remembers the one before. Raises ValueError when there is no such version."""
    found, before = get(name, version), _champion(name)
    client = _client()
    if before is not None and before.version != version and _history(name)[-1:] != [before.version]:
        client.set_registered_model_tag(name, HISTORY, json.dumps([*_history(name), before.version]))
    client.set_registered_model_alias(name, CHAMPION, str(found.version))
    return get(name, version)


def rollback(name: str) -> Version:
    """Makes the version champion that was it before. Raises ValueError when none is left."""
    require(name)
    there = {version.version for version in versions(name)}
    history = [version for version in _history(name) if version in there]
    if not history:
        raise ValueError(f"{name} has no earlier champion; `eagerly models promote {name} VERSION` picks one")
    client = _client()
    client.set_registered_model_tag(name, HISTORY, json.dumps(history[:-1]))
    client.set_registered_model_alias(name, CHAMPION, str(history[-1]))
    return get(name, history[-1])


def champion(name: str) -> Version:
    """Finds the version that serves. Raises ValueError when there is none, saying how to get one."""
    found = _champion(name) if tracking.exists() else None
    if found is None:
        raise ValueError(f"no champion for {name} in {tracking.uri()}; `eagerly train {name}` trains and registers one")
    return found


def aim(name: str) -> Aim | None:
    """Asks, with one call, which version is to serve; None when there is no such model.

    Raises RuntimeError for an answer that is not about this model, and what MLflow raises when there is none.
    """
    if not tracking.exists():
        return None
    from mlflow.exceptions import MlflowException

    try:
        model = _client().get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if model.name != name:
        raise RuntimeError(f"the registry was asked for the model {name!r} and answered with {model.name!r}")
    number = model.aliases.get(CHAMPION)
    return Aim(int(model.creation_timestamp or 0), int(number) if number is not None else None, dict(model.tags))


def tag(name: str, key: str, value: str | None) -> None:
    """Sets a tag of a registered model, or takes it away."""
    if value is None:
        _client().delete_registered_model_tag(name, key)
    else:
        _client().set_registered_model_tag(name, key, value)


def read(name: str, number: int) -> Version:
    """Asks for one version, with one call; raises RuntimeError for an answer that is not about it."""
    found = _client().get_model_version(name, str(number))
    if (found.name, str(found.version)) != (name, str(number)):
        raise RuntimeError(f"the registry was asked for {name} {number} and answered with {found.name} {found.version}")
    return _version(found, None)


def get(name: str, version: int) -> Version:
    """Finds one version. Raises ValueError when there is none of that number, naming those there are."""
    require(name)
    for found in versions(name):
        if found.version == version:
            return found
    numbers = ", ".join(str(found.version) for found in versions(name))
    raise ValueError(f"{name} has no version {version}; it has {numbers or 'none'}")


def names() -> list[str]:
    """Lists the registered models."""
    return sorted(model.name for model in _pages(_client().search_registered_models))


def versions(name: str) -> list[Version]:
    """Lists the versions of a model, newest first."""
    if not _exists(name):
        return []
    aliased = _champion_number(name)
    found = _pages(_client().search_model_versions, filter_string=f"name='{name}'")
    return sorted((_version(entry, aliased) for entry in found), key=lambda entry: -entry.version)


def download(version: Version, folder: Path) -> None:
    """Copies a version's artifact folder to `folder`, which must not exist yet."""
    from mlflow.artifacts import download_artifacts

    folder.mkdir(parents=True)
    download_artifacts(
        artifact_uri=version.source, dst_path=str(folder.parent / f".{folder.name}"), tracking_uri=tracking.uri()
    )
    downloaded = folder.parent / f".{folder.name}"
    below = downloaded / Path(version.source).name
    inner = below if below.is_dir() and not (downloaded / "MANIFEST.json").exists() else downloaded
    folder.rmdir()
    inner.rename(folder)
    if downloaded.exists():
        downloaded.rmdir()


def facts(run_id: str) -> dict[str, str]:
    """Reads the settings that a run was logged with; empty where the run is gone, but not where the store is away."""
    from mlflow.exceptions import MlflowException

    try:
        return dict(_client().get_run(run_id).data.params)
    except MlflowException as problem:
        if outages.passes(problem):
            raise
        return {}


def attach(run_id: str, files: list[Path], folder: str) -> None:
    """Adds files to a run's artifacts, in a folder."""
    client = _client()
    for path in files:
        client.log_artifact(run_id, str(path), folder)


def attached(run_id: str, folder: str, into: Path) -> Path:
    """Copies a folder of a run's artifacts to a folder here. Raises ValueError when the run has none; outages as is."""
    from mlflow.exceptions import MlflowException

    try:
        return Path(_client().download_artifacts(run_id, folder, str(into)))
    except (MlflowException, OSError) as problem:
        if outages.passes(problem):
            raise
        raise ValueError(f"the MLflow run {run_id} has no {folder!r} among its artifacts ({problem})") from problem


def _version(entry: Any, aliased: int | None) -> Version:
    tags, number = entry.tags, int(entry.version)
    metrics, primary, digest = json.loads(tags.get(METRICS, "{}")), tags.get(PRIMARY, ""), tags.get(DIGEST, "")
    return Version(
        entry.name, number, entry.run_id, digest, entry.source, metrics, primary, number == aliased, tags.get(GATE, "")
    )


def require(name: str) -> None:
    """Raises ValueError when there is no model of that name, naming those there are."""
    if not _exists(name):
        there = ", ".join(names()) or "none"
        raise ValueError(f"no model {name!r} in {tracking.uri()}; there are: {there}; `eagerly train` makes one")


def _exists(name: str) -> bool:
    return bool(_client().search_registered_models(filter_string=f"name='{name}'"))


def _champion_number(name: str) -> int | None:
    model = _client().get_registered_model(name)
    number = model.aliases.get(CHAMPION)
    return int(number) if number is not None else None


def _champion(name: str) -> Version | None:
    if not _exists(name) or (number := _champion_number(name)) is None:
        return None
    return get(name, number)


def _pages(search: Callable[..., Any], **asked: Any) -> list[Any]:
    """Takes all that a search finds, page after page."""
    page = search(**asked)
    found = [*page]
    while page.token:
        page = search(**asked, page_token=page.token)
        found += page
    return found


def _history(name: str) -> list[int]:
    return list(json.loads(_client().get_registered_model(name).tags.get(HISTORY, "[]")))


def _client() -> Any:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    return mlflow.MlflowClient(tracking_uri=tracking.uri(), registry_uri=tracking.uri())
