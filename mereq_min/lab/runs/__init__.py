"""Runs on disk: files, records, provenance, episodes, and sweeps of many runs."""
