"""The command line `mereq`, one module per command."""
