"""What the Grafana dashboards show: a title, queries, a unit, and what it tells, for each panel."""

from dataclasses import dataclass

ENDPOINT = '{job=~"$job", service=~"$service"}'
NODE = '{job=~"$job"}'
RUN = '{task=~"$task", run=~"$run"}'


@dataclass(frozen=True)
class Panel:
    """One panel: a title, queries by legend, a unit of Grafana's, and what it tells."""

    title: str
    queries: dict[str, str]
    unit: str
    text: str
    kind: str = "timeseries"


@dataclass(frozen=True)
class Variable:
    """A choice at the top of a dashboard, filled from a label."""

    name: str
    query: str


def _quantiles(metric: str) -> dict[str, str]:
    """Asks for the latencies that half, most and nearly all calls stay below."""
    buckets = f"sum by (service, le) (rate({metric}_bucket{ENDPOINT}[$__rate_interval]))"
    return {
        f"{{{{service}}}} p{share * 100:.0f}": f"histogram_quantile({share}, {buckets})" for share in (0.5, 0.95, 0.99)
    }


def _mean(metric: str) -> str:
    rates = [f"sum by (service) (rate({metric}_{part}{ENDPOINT}[$__rate_interval]))" for part in ("sum", "count")]
    return " / ".join(rates)


def _by(labels: str, metric: str, labelled: str = ENDPOINT) -> str:
    return f"sum by ({labels}) (rate({metric}{labelled}[$__rate_interval]))"


ALERTS = Panel(
    "Alerts", {"": 'ALERTS{alertname=~"Eagerly.+", alertstate="firing"}'}, "none", "What fires now.", "table"
)
SERVING = (
    ALERTS,
    Panel(
        "Calls", {"{{service}} {{code}}": _by("service, code", "eagerly_requests_total")}, "reqps", "By status code."
    ),
    Panel(
        "Failed calls",
        {
            "{{service}} 5 min": f"service:eagerly_request_errors:ratio_rate5m{ENDPOINT}",
            "{{service}} 1 h": f"service:eagerly_request_errors:ratio_rate1h{ENDPOINT}",
            "{{service}} 3 d": f"service:eagerly_request_errors:ratio_rate3d{ENDPOINT}",
            "objective": "vector(0.001)",
        },
        "percentunit",
        "Share of the calls that failed by the endpoint's own fault; 0.1 % in 30 days may.",
    ),
    Panel("Latency", _quantiles("eagerly_request_duration_seconds"), "s", "From a call to its reply."),
    Panel("Queue time", _quantiles("eagerly_queue_duration_seconds"), "s", "How long calls wait for the model."),
    Panel("Compute time", _quantiles("eagerly_compute_duration_seconds"), "s", "How long the model takes for a batch."),
    Panel(
        "Slow calls",
        {"{{service}}": f"service:eagerly_request_slow:ratio_rate5m{ENDPOINT}", "objective": "vector(0.01)"},
        "percentunit",
        "Share of the calls that took longer than 0.25 s.",
    ),
    Panel("Batch size", {"{{service}}": _mean("eagerly_batch_size")}, "none", "Items computed together, on average."),
    Panel(
        "Calls in flight", {"{{service}}": f"sum by (service) (eagerly_in_flight_requests{ENDPOINT})"}, "none", "Now."
    ),
    Panel(
        "Items", {"{{service}} {{code}}": _by("service, code", "eagerly_items_total")}, "cps", "By their own status."
    ),
    Panel(
        "Replicas",
        {
            "{{service}}": f"sum by (service) (eagerly_replicas{ENDPOINT})",
            "{{service}} wanted": f"max by (service) (eagerly_replicas_wanted{ENDPOINT})",
        },
        "none",
        "That answer, and that there should be.",
    ),
    Panel(
        "Certificate",
        {"{{instance}}": f"(eagerly_certificate_expiry_timestamp_seconds{NODE} - time()) / 86400"},
        "d",
        "Days until the certificate of the gRPC port ends; nothing without TLS.",
    ),
    Panel(
        "Access log lines dropped",
        {"{{instance}}": _by("instance", "eagerly_access_log_dropped_total", NODE)},
        "cps",
        "By a full or slow disk.",
    ),
)
MODELS = (
    Panel(
        "Models served",
        {"": f"max by (service, version, run_id, digest) (eagerly_model_info{ENDPOINT})"},
        "none",
        "Version, MLflow run and digest.",
        "table",
    ),
    Panel(
        "Champion",
        {"{{service}}": f"min by (service) (eagerly_champion_present{ENDPOINT})"},
        "none",
        "0 while the registry names none.",
    ),
    Panel("Registry", {"{{instance}}": f"eagerly_registry_up{NODE}"}, "none", "0 while MLflow does not answer."),
    Panel(
        "New models",
        {
            "{{service}} {{outcome}}": f"sum by (service, outcome) "
            f"(increase(eagerly_model_swaps_total{ENDPOINT}[$__rate_interval]))"
        },
        "none",
        "Put in place of another, or refused.",
    ),
    Panel(
        "Drift, PSI",
        {"{{service}} {{feature}}": f"max by (service, feature) (eagerly_drift_psi{ENDPOINT})"},
        "none",
        "Population stability index against the validation split; above 0.25 a distribution has changed.",
    ),
    Panel(
        "Drift, KS",
        {"{{service}} {{feature}}": f"max by (service, feature) (eagerly_drift_ks{ENDPOINT})"},
        "none",
        "Kolmogorov-Smirnov distance from the validation split.",
    ),
    Panel(
        "Rollout share",
        {"{{service}} {{mode}}": f"max by (service, mode) (eagerly_rollout_share{ENDPOINT})"},
        "percentunit",
        "Share of the calls that a candidate gets; 0 while there is no rollout.",
    ),
    Panel(
        "Rollout failures",
        {
            "{{service}} {{role}}": 'sum by (service, role) (rate(eagerly_rollout_calls_total{job=~"$job", '
            'service=~"$service", outcome!="ok"}[$__rate_interval]))'
        },
        "cps",
        "Calls counted for a rollout that failed, and those of its shadow that were dropped.",
    ),
    Panel(
        "Rollout time",
        {
            "{{service}} {{role}}": f"{_by('service, role', 'eagerly_rollout_duration_seconds_sum')}"
            f" / {_by('service, role', 'eagerly_rollout_duration_seconds_count')}"
        },
        "s",
        "Of both models for a call of a rollout, on average.",
    ),
    Panel(
        "Rollouts ended",
        {
            "{{service}} {{outcome}}": f"max by (service, outcome) "
            f"(increase(eagerly_rollout_ends_total{ENDPOINT}[$__rate_interval]))"
        },
        "none",
        "Promoted, aborted, rolled back or superseded; a node's replicas count for themselves.",
    ),
    Panel(
        "Rollout agreement",
        {
            "{{service}}": f"{_by('service', 'eagerly_rollout_agreed_total')}"
            f" / {_by('service', 'eagerly_rollout_compared_total')}"
        },
        "percentunit",
        "How far champion and candidate answer alike.",
    ),
    Panel(
        "Abstentions",
        {"{{service}}": f"{_by('service', 'eagerly_abstained_total')} / {_by('service', 'eagerly_items_total')}"},
        "percentunit",
        "Share of the items whose best score was below the least confidence asked.",
    ),
    Panel(
        "How models are run",
        {"": f"max by (service, path) (eagerly_model_path_info{ENDPOINT})"},
        "none",
        "The fastest way that gave a model's own answers.",
        "table",
    ),
    Panel("Compute time", {"{{service}}": _mean("eagerly_compute_duration_seconds")}, "s", "For a batch, on average."),
)
TRAINING = (
    Panel(
        "Progress",
        {
            "{{run}}": f"max by (task, run) (ray_eagerly_training_step{RUN})"
            f" / max by (task, run) (ray_eagerly_training_planned_steps{RUN})"
        },
        "percentunit",
        "Steps taken, of those planned.",
    ),
    Panel(
        "Training loss", {"{{run}}": f"max by (task, run) (ray_eagerly_training_loss{RUN})"}, "none", "As last read."
    ),
    Panel(
        "Speed",
        {"{{run}}": f"max by (task, run) (ray_eagerly_training_examples_per_second{RUN})"},
        "cps",
        "Training examples a second, over all workers.",
    ),
    Panel("Running", {"{{run}}": f"max by (task, run) (ray_eagerly_training_running{RUN})"}, "none", "0 once ended."),
    Panel(
        "Restarts",
        {"{{run}}": f"max by (task, run) (ray_eagerly_training_restarts{RUN})"},
        "none",
        "Times that the run was started again, after a loss, an error or a change of size.",
    ),
    Panel(
        "Age of the checkpoint",
        {
            "{{run}}": f"time() - max by (task, run) (ray_eagerly_training_checkpoint_timestamp_seconds{RUN})"
            f" and max by (task, run) (ray_eagerly_training_running{RUN}) == 1"
        },
        "s",
        "Since the newest one was written, or the worker began; a loss costs what was learned in that time.",
    ),
    Panel(
        "Ray Train's controller",
        {
            "{{ray_train_run_name}} {{ray_train_controller_state}}": "max by (ray_train_run_name, "
            "ray_train_controller_state) (ray_train_controller_state) > 0"
        },
        "none",
        "The state that it is in.",
    ),
    Panel("CPU of the nodes", {"{{instance}}": "ray_node_cpu_utilization"}, "percent", "In use."),
    Panel("Memory of the nodes", {"{{instance}}": "ray_node_mem_used / ray_node_mem_total"}, "percentunit", "In use."),
    Panel(
        "GPUs of the nodes", {"{{instance}} {{GpuIndex}}": "ray_node_gpus_utilization"}, "percent", "In use, if any."
    ),
)
SERVED = (
    Variable("job", "label_values(eagerly_model_info, job)"),
    Variable("service", 'label_values(eagerly_model_info{job=~"$job"}, service)'),
)
TRAINED = (
    Variable("task", "label_values(ray_eagerly_training_step, task)"),
    Variable("run", 'label_values(ray_eagerly_training_step{task=~"$task"}, run)'),
)
