"""Measures: meters, the engine's cost model, request timelines, attribution, and their export."""
