"""The hypothesis profile of all tests: the same examples on every machine, without a time limit."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("fixed")
