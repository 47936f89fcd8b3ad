"""A/B tests on live traffic: one strategy against another, by blocks of time; kept over restarts, told over the admin port."""
