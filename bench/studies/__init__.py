"""What the studies on real servers share: paired runs, their journal, intervals, provenance and tables."""
