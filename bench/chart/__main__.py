"""Writes charts/paceline/values.schema.json and the table in docs/kubernetes.md."""

from __future__ import annotations

from bench.chart.schema import PAGE, SCHEMA, page, written

SCHEMA.write_text(written())
PAGE.write_text(page(PAGE.read_text()))
