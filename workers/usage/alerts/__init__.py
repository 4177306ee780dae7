"""Alerts: counted with each booked batch, evaluated beside the booking, told by notices.

`alert_counts` is what the ledger calls. `evaluator` runs in every usage consumer; one of them at a time evaluates.
"""
