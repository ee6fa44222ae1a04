"""A person takes over: live sessions in the browser, journaled, and learned from while they watch."""
