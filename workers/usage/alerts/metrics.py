"""The metrics of the alerts, all in one place."""

from prometheus_client import Counter, Gauge, Histogram

TRANSITIONS = Counter("fleet_alert_transitions_total", "Alerts raised and resolved", ["kind", "transition"])
EVALUATIONS = Counter("fleet_alert_evaluations_total", "Rounds of evaluation, by how they ended", ["result"])
EVALUATION_SECONDS = Histogram(
    "fleet_alert_evaluation_seconds",
    "How long a round of evaluation took",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
UNRESOLVED = Gauge("fleet_alerts_unresolved", "Alerts whose condition lasts, as of the last round")
