"""Results for people to look at: tables, plots, films, and the numbers that the paper published."""
