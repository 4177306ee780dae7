"""The metrics of the usage consumer, all in one place."""

from prometheus_client import Counter, Gauge, Histogram

RECORDS = Counter(
    "fleet_usage_records_total", "Usage records taken from the stream, by what became of them", ["result"]
)
BATCHES = Counter("fleet_usage_batches_total", "Batches, by how they ended", ["result"])
BATCH_SECONDS = Histogram(
    "fleet_usage_batch_seconds",
    "From a batch's arrival to its commit",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
LAG_SECONDS = Gauge("fleet_usage_lag_seconds", "Age of the oldest record that is not booked")
PENDING = Gauge("fleet_usage_pending_records", "Records that are not booked")
