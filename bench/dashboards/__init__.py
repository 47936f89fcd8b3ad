"""Grafana's dashboards as code: `python -m bench.dashboards` writes charts/paceline/dashboards/*.json."""
