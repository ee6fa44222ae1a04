"""Studies with people: who teaches what in which order, what they answer, and what comes of it as a table."""
