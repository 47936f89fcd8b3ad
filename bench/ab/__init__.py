"""`paceline ab`: starts experiments on a running proxy, watches them, and reports what they came to."""
