"""One hypothesis profile for the whole suite: the same examples everywhere, and no time limit on one."""

from hypothesis import settings

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("fixed")
