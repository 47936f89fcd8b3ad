"""The Helm chart's schema and table of values, from the configuration itself: `python -m bench.chart` writes them."""
