"""What `paceline calibrate` is made of: a plan of runs, what is counted in each, a journal, and what is told at the end."""
