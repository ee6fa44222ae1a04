"""The contracts between the rooms of this codebase; read this page first.

    Task + Policy + Expert --rollout--> Steps --Method(Learner)--> theta, Policy --+
      ^----------------------------------------------------------------------------+

Whatever offers these names takes part: `mereq_min` never asks for a class. Arrays go in and out as numpy;
N is a batch, K the number of features, "..." the shape of one state or action. Symbols are those of the paper
(Chen et al., "MEReQ", CoRL 2025).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mereq_min.steps import Steps
from mereq_min.validation import Array

if TYPE_CHECKING:
    import gymnasium

    from mereq_min.experts import Imperfections
    from mereq_min.steps import Steps


RewardModel = Literal["residual", "full"]
Start = Literal["prior", "scratch"]


class Policy(Protocol):
    """Anything that can say how likely an action is, and draw one. All that a prior must offer."""

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Log-probability (or log-density) of actions (N, ...) in states (N, ...).

        Returns:
            (N,) log pi(a | s); -inf for an action that is never taken.
        """
        ...

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw one action for each of the states (N, ...); returns (N, ...)."""
        ...


class Expert(Protocol):
    """Who watches and takes over: a simulated expert or a human at a browser, the same to the loop."""

    def reset(self) -> None:
        """Begin a new episode with the policy in control."""
        ...

    def intervene(self, state: NDArray[Any], policy_action: NDArray[Any]) -> NDArray[Any] | None:
        """See one state (...) and the action (...) the policy is about to take there.

        Returns:
            The expert's own action (...) where the expert controls this step, else None.
        """
        ...


class Learner(Protocol):
    """Knows the policy for a theta, and how that policy's features respond to theta.

    The loop does not know whether a sparse solve or residual SAC answers.
    """

    discount: float
    """Weight of time in feature expectations: a step at time t counts discount**t, on both sides."""

    @property
    def policy(self) -> Policy:
        """The last solved policy; `restore` brings it back."""
        ...

    def solve(self, theta: Array) -> Policy:
        """Return the (customised) policy for reward weights theta (K,), warm-started from the last call."""
        ...

    def mean_features(self) -> Array:
        """Mean features (K,) of the last solved policy over whole episodes."""
        ...

    def mean_features_jacobian(self) -> Array:
        """Derivative (K, K) of `mean_features` in the last theta, [k, j] = d f_bar_k / d theta_j."""
        ...

    def score(self, steps: Steps) -> Array:
        """Derivative (K,) of the log-likelihood of the steps' actions with respect to the last theta."""
        ...

    def information(self, steps: Steps) -> Array:
        """Fisher information (K, K) on theta that the steps' actions carry at the last theta."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that a later `solve` depends on, as named arrays."""
        ...

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` returned."""
        ...


class Cloner(Protocol):
    """Behaviour cloning: a policy by weighted maximum likelihood, from the prior's weights."""

    def clone(self, steps: Steps, weights: Array) -> Policy:
        """Fit the executed actions of the steps with weights (N,) >= 0."""
        ...


class Task(Protocol):
    """A gymnasium environment with named linear features, a prior to align and an expert to align it with.

    The prior is soft-optimal for prior_weights . f at prior_temperature, the expert for expert_weights . f at
    temperature; theta* = expert_weights - prior_weight * prior_weights is the residual to be found.
    """

    @property
    def name(self) -> str:
        """Name of the task."""
        ...

    @property
    def gamma(self) -> float:
        """Discount factor of the MDP."""
        ...

    @property
    def horizon(self) -> int:
        """Time limit of an episode [steps]."""
        ...

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names (K,) of the features."""
        ...

    @property
    def prior_weights(self) -> Array:
        """Weights (K,) of the prior's reward."""
        ...

    @property
    def expert_weights(self) -> Array:
        """Weights (K,) of the expert's reward."""
        ...

    @property
    def prior_weight(self) -> float:
        """omega, the weight of the prior's reward in the expert's."""
        ...

    @property
    def prior_temperature(self) -> float:
        """alpha [reward]."""
        ...

    @property
    def temperature(self) -> float:
        """alpha_hat [reward]."""
        ...

    @property
    def patience(self) -> int:
        """Steps before a takeover that provoked it."""
        ...

    @property
    def prior(self) -> Policy:
        """The policy to align."""
        ...

    @property
    def expert_policy(self) -> Policy:
        """How the expert acts once in control."""
        ...

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gymnasium.Env[Any, Any]:
        """Return a fresh environment with the time limit applied.

        Each step's info holds `features` (K,), those of the step just taken: a simulator's features may
        depend on more than the observation shows.

        Args:
            render_mode: as gymnasium has it; "rgb_array" must work.
            reference: whether to use the simulator on which results are reported, where a task trains on a
                faster one.
        """
        ...

    def make_expert(self, rng: np.random.Generator, imperfections: Imperfections) -> Expert:
        """Return the simulated expert of this task; its randomness comes from `rng`."""
        ...

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> Learner:
        """Return a learner of the residual reward on the prior, or of the full reward without it.

        Args:
            reward: which reward theta stands for.
            discount: weight of time in its feature expectations.
            start: whether a learner of the full reward that has weights to tune begins with the prior's.
            seed: of its randomness, where it has any.
        """
        ...

    def make_cloner(self, *, seed: int = 0) -> Cloner:
        """Return behaviour cloning that starts from the prior."""
        ...

    def evaluate(
        self, policy: Policy, *, episodes: int | None = None, reference: bool = False
    ) -> dict[str, Any]:
        """Measure a policy over whole episodes, without interventions.

        Args:
            policy: the policy.
            episodes: how many are rolled out, where the measures are not exact; default: the task's choice.
            reference: see `make_env`.

        Returns:
            `prior_return` and `expert_return`: mean return of an episode under either reward; `success`:
            share of episodes in which the task proper is done; `kl_to_expert`: mean KL(expert || policy) over
            the expert's steps [nats]; `feature_divergence`: (K,) Jensen-Shannon divergence of each feature's
            distribution from the expert's [bits]; and measures of the task's own.
        """
        ...

    def load_policy(self, state: dict[str, NDArray[Any]]) -> Policy:
        """Rebuild a policy of this task from the arrays that its `state()` returned."""
        ...

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """STARC distance of theta . f to the true reward, residual or full; NaN if unknown."""
        ...


Info = dict[str, Any]


class Aligner(Protocol):
    """What the loop asks of a method: a policy to begin with, and a better one for all steps so far."""

    policy: Policy
    """The policy to roll out next."""
    info: Info
    """Where the method stands: `theta` (None where none is inferred) and its `standard_errors`."""

    def update(self, steps: Steps) -> tuple[Policy, Info]:
        """Fit all steps so far; returns the new `policy` and a report of the fit, `theta` among it."""
        ...

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that later updates depend on, as named arrays."""
        ...

    def restore(self, state: dict[str, NDArray[Any]], steps: Steps) -> None:
        """Go on from what `state` returned after the update on `steps`."""
        ...
