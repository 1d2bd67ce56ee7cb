"""Charts and tables of runs: loss.png at the end of each, a page that compares them, a table of all."""
