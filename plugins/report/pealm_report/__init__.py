"""What runs look like: loss.png at the end of each, a page that compares them, a table of all."""
