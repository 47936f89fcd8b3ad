"""`paceline top`: what a running proxy does, at a glance, in a terminal."""
