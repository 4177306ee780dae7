"""The metrics of notices; an admin API adds them to its registry."""

from prometheus_client import Counter, Gauge

DELIVERIES = Counter(
    "fleet_notice_deliveries_total",
    "Tries to deliver a notice, by channel and how they ended",
    ["channel", "result"],
    registry=None,
)
UNDELIVERED = Gauge(
    "fleet_notices_undelivered", "Deliveries that are still to be made, as of the last look", ["channel"], registry=None
)
ALL = (DELIVERIES, UNDELIVERED)
