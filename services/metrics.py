"""The figures that Prometheus reads: one table of names and labels, kept so that replicas can answer for each other.

Each process writes its values into files of one folder a node and endpoint, in the format of prometheus_client's
multiprocess mode, which adds them up at a scrape: so any replica answers for all, and what a dead one has counted
stays counted (graves.py). The files are written here, not through prometheus_client's metric classes: those choose
their storage when the module is first imported, too early in a process that somebody else started.

No label takes a value from a caller.
"""

import logging
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.mmap_dict import mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from services import graves

log = logging.getLogger(__name__)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))
_ITEMS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, float("inf"))


@dataclass(frozen=True)
class Metric:
    """A row of the table."""

    name: str
    kind: Literal["counter", "histogram", "gauge_livesum", "gauge_livemax", "gauge_livemin"]
    """Gauges say how the live processes' values are put together; a dead process has none."""
    labels: tuple[str, ...]
    text: str
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets."""


REQUESTS = Metric(
    "eagerly_requests_total", "counter", ("service", "method", "code"), "Calls answered, by gRPC status code."
)
ITEMS = Metric(
    "eagerly_items_total", "counter", ("service", "method", "code"), "Items of answered calls, by their own status."
)
REQUEST_SECONDS = Metric(
    "eagerly_request_duration_seconds", "histogram", ("service", "method"), "Time from a call to its reply.", _SECONDS
)
QUEUE_SECONDS = Metric(
    "eagerly_queue_duration_seconds", "histogram", ("service",), "Time a call waited for the model.", _SECONDS
)
COMPUTE_SECONDS = Metric(
    "eagerly_compute_duration_seconds", "histogram", ("service",), "Time the model took for a batch.", _SECONDS
)
BATCH_SIZE = Metric("eagerly_batch_size", "histogram", ("service",), "Items computed together.", _ITEMS)
IN_FLIGHT = Metric("eagerly_in_flight_requests", "gauge_livesum", ("service", "method"), "Calls being worked on now.")
REPLICAS = Metric("eagerly_replicas", "gauge_livesum", ("service",), "Replicas that serve, not those that drain.")
MODEL_INFO = Metric(
    "eagerly_model_info", "gauge_livemax", ("service", "version", "run_id", "digest"), "1 for each model being served."
)
PATH_INFO = Metric(
    "eagerly_model_path_info", "gauge_livemax", ("service", "path"), "1 for each way in which a model is run."
)
SWAPS = Metric(
    "eagerly_model_swaps_total", "counter", ("service", "outcome"), "Models put in place of another, or refused."
)
REGISTRY_UP = Metric("eagerly_registry_up", "gauge_livemax", (), "0 while the registry of the models does not answer.")
CHAMPION = Metric(
    "eagerly_champion_present", "gauge_livemin", ("service",), "0 while the registry names no champion for the service."
)
REPLICAS_WANTED = Metric("eagerly_replicas_wanted", "gauge_livemax", ("service",), "Replicas that there should be.")
CERTIFICATE_END = Metric(
    "eagerly_certificate_expiry_timestamp_seconds",
    "gauge_livemin",
    (),
    "When the certificate of the port ends.",
)
ACCESS_LOG_DROPPED = Metric(
    "eagerly_access_log_dropped_total", "counter", (), "Lines that a full or slow disk kept out of the access log."
)
ABSTAINED = Metric(
    "eagerly_abstained_total", "counter", ("service",), "Answers whose best score was below the least confidence asked."
)
ROLLOUT_CALLS = Metric(
    "eagerly_rollout_calls_total", "counter", ("service", "role", "outcome"), "Calls counted for a rollout."
)
ROLLOUT_SECONDS = Metric(
    "eagerly_rollout_duration_seconds", "histogram", ("service", "role"), "Time a model took for such a call.", _SECONDS
)
ROLLOUT_COMPARED = Metric(
    "eagerly_rollout_compared_total", "counter", ("service",), "Calls whose answers by both models were compared."
)
ROLLOUT_AGREED = Metric(
    "eagerly_rollout_agreed_total", "counter", ("service",), "Sum of their agreements, 0 to 1 each."
)
ROLLOUT_SHARE = Metric(
    "eagerly_rollout_share", "gauge_livemax", ("service", "mode"), "Share of the calls that a candidate gets."
)
ROLLOUT_ENDS = Metric(
    "eagerly_rollout_ends_total", "counter", ("service", "outcome"), "Rollouts that ended, as each replica saw it."
)
DRIFT_PSI = Metric(
    "eagerly_drift_psi", "gauge_livemax", ("service", "feature"), "Population stability index against validation."
)
DRIFT_KS = Metric(
    "eagerly_drift_ks", "gauge_livemax", ("service", "feature"), "Kolmogorov-Smirnov distance from validation."
)
TABLE = (
    REQUESTS,
    ITEMS,
    REQUEST_SECONDS,
    QUEUE_SECONDS,
    COMPUTE_SECONDS,
    BATCH_SIZE,
    IN_FLIGHT,
    REPLICAS,
    MODEL_INFO,
    PATH_INFO,
    SWAPS,
    REGISTRY_UP,
    CHAMPION,
    REPLICAS_WANTED,
    ACCESS_LOG_DROPPED,
    ABSTAINED,
    ROLLOUT_CALLS,
    ROLLOUT_SECONDS,
    ROLLOUT_COMPARED,
    ROLLOUT_AGREED,
    ROLLOUT_SHARE,
    ROLLOUT_ENDS,
)
DRIFT = (DRIFT_PSI, DRIFT_KS)
"""Gauges that are there only while there is something to say, and less than 0 when there no longer is.

CERTIFICATE_END is there only where the port has a certificate.
"""


class Value:
    """One number of one process, kept here and in the process's file."""

    def __init__(self, file: graves.Ledger | graves.Nowhere, key: str) -> None:
        """Goes on from what the file holds, so that a process id used twice loses no count."""
        self._file = file
        self._key = key
        self._value: float = file.read_value(key)[0]

    def add(self, amount: float) -> None:
        """Adds to the number."""
        self._value += amount
        self._file.write_value(self._key, self._value, 0.0)

    def set(self, value: float) -> None:
        """Replaces the number."""
        self._value = value
        self._file.write_value(self._key, value, 0.0)


class Histogram:
    """Buckets and their sum, of one process."""

    def __init__(self, bounds: tuple[float, ...], buckets: list[Value], total: Value) -> None:
        """Takes as many buckets as bounds."""
        self._bounds = bounds
        self._buckets = buckets
        self._total = total

    def observe(self, values: Sequence[float]) -> None:
        """Counts values in their buckets, with one write for each bucket."""
        counts: dict[int, int] = {}
        for value in values:
            bucket = bisect_left(self._bounds, value)
            counts[bucket] = counts.get(bucket, 0) + 1
        for bucket, count in counts.items():
            self._buckets[bucket].add(count)
        self._total.add(sum(values))


class Metrics:
    """One process's files in the shared folder; for one thread."""

    def __init__(self, folder: Path) -> None:
        """Opens this process's files and marks it alive, by a lock that ends with the process.

        Raises ValueError where the folder cannot have them, as on a full disk.
        """
        self._folder = folder
        self._files: dict[str, graves.Ledger] = {}
        self._is_full = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with graves.locked(folder):
                graves.bury(folder)  # this process id may have been another's
                self._alive = graves.mark_alive(folder)
                self._open()
        except OSError as error:
            where = f"the metrics' files cannot be written to {folder.parent} ({error.strerror})"
            raise ValueError(f"{where}; make room there, or name another folder with TMPDIR") from None
        self.value(ACCESS_LOG_DROPPED)  # there from the start, like the others

    def value(self, metric: Metric, *labels: str) -> Value:
        """Opens a counter or gauge, whose labels are given in the table's order."""
        assert len(labels) == len(metric.labels) and metric.kind != "histogram", metric.name
        return self._value(metric, metric.name, metric.labels, labels)

    def histogram(self, metric: Metric, *labels: str) -> Histogram:
        """Opens a histogram, whose labels are given in the table's order."""
        assert len(labels) == len(metric.labels) and metric.kind == "histogram", metric.name
        names = (*metric.labels, "le")
        buckets = [
            self._value(metric, f"{metric.name}_bucket", names, (*labels, floatToGoString(bound)))
            for bound in metric.bounds
        ]
        return Histogram(metric.bounds, buckets, self._value(metric, f"{metric.name}_sum", metric.labels, labels))

    def close(self) -> None:
        """Takes this process's gauges away; its counts stay."""
        for file in self._files.values():
            file.close()
        self._files.clear()
        os.close(self._alive)
        with graves.locked(self._folder):
            graves.bury(self._folder)

    def _open(self) -> None:
        """Opens the files, or none."""
        try:
            for kind in {metric.kind for metric in (*TABLE, *DRIFT, CERTIFICATE_END)}:
                self._files[kind] = graves.Ledger(self._folder / f"{kind}_{os.getpid()}.db")
        except OSError:
            for file in self._files.values():
                file.close()
            os.close(self._alive)
            raise

    def _value(self, metric: Metric, name: str, labels: tuple[str, ...], values: tuple[str, ...]) -> Value:
        family = metric.name.removesuffix("_total") if metric.kind == "counter" else metric.name
        key = mmap_key(family, name, list(labels), list(values), metric.text)
        try:
            return Value(self._files[metric.kind], key)
        except OSError as error:
            if not self._is_full:
                log.warning("the disk has no room for new metrics, which are not shown: %s", error.strerror)
            self._is_full = True
            return Value(graves.Nowhere(), key)


class _Present(Collector):
    """All processes' figures, without models and paths that are no longer served, nor drift no longer known."""

    def __init__(self, folder: Path) -> None:
        self._figures = MultiProcessCollector(None, path=str(folder))

    def collect(self) -> Iterator[Family]:
        for family in self._figures.collect():
            if family.name in (MODEL_INFO.name, PATH_INFO.name):
                family.samples = [sample for sample in family.samples if sample.value]
            elif family.name in (DRIFT_PSI.name, DRIFT_KS.name):
                family.samples = [sample for sample in family.samples if sample.value >= 0]
            yield family


def scrape(folder: Path) -> bytes:
    """Adds up all processes' figures, in Prometheus's text format."""
    with graves.locked(folder):
        graves.bury(folder)
        registry = CollectorRegistry()
        registry.register(_Present(folder))
        return generate_latest(registry)


def paths(folder: Path) -> dict[str, list[str]]:
    """Finds in which ways each service's model is run now, one for each unless replicas differ.

    Nothing where the folder is another machine's.
    """
    found: dict[str, list[str]] = {}
    if not folder.is_dir():
        return found
    with graves.locked(folder):
        for family in _Present(folder).collect():
            if family.name == PATH_INFO.name:
                for sample in family.samples:
                    found.setdefault(sample.labels["service"], []).append(sample.labels["path"])
    return found


def alive_pids(folder: Path) -> set[int]:
    """Finds the processes that are alive."""
    return graves.alive_pids(folder)
