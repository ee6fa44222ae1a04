"""Everything around an experiment: runs, tables and films, checks of your own objects, the command line.

The method in `mereq_min` imports nothing of it.
"""
