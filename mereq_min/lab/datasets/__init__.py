"""Logs of interventions: those of our runs for other libraries, and those of others for our methods."""
