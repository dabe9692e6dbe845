"""Grafana dashboards, generated from the catalogue with grafanalib; ``python -m dashboards`` writes them."""
