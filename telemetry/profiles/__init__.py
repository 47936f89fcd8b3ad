"""Fitted step models, one JSON file each, with their provenance."""
