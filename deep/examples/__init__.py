"""Ordinary gymnasium environments as tasks: a prior by Stable-Baselines3 or of this package, and a wish.

Each is a `GymTask` that a user could write, with a small prior beside it. `train_priors.py` and
`train_experts.py` say how priors and experts were made.
"""
