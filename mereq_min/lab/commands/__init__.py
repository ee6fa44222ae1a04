"""The command line `mereq`, one module a command."""
