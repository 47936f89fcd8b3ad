"""What a proxy costs: Paceline beside others in one run, each on one core, and what 10,000 waiting requests cost."""
