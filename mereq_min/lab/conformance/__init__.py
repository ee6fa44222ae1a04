"""Checks whether a policy, task or oracle of your own keeps the promises of `mereq_min.interfaces`.

A finding says what was expected, what was found and what to do; where all is well there is none. Whatever the
object under check does wrong becomes a finding, exceptions included. Statistical checks report a flawless
policy less than once in 1,000 calls.
"""
