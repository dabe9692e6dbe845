"""Alerting: rules generated from the catalogue and the objectives, their routing, and the receiver.

``python -m alerts`` writes what Prometheus loads; ``python -m alerts.receiver`` shows what on-call would get.
"""
