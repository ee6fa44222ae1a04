"""The contracts between the parts of this package; read this module first.

    Task + Policy + Expert --rollout--> Steps --Method(Learner)--> theta, Policy --+
      ^----------------------------------------------------------------------------+

A `Task` is what you need in order to align a policy: an environment, named features and a prior policy. An
`Expert` watches the policy and takes over. An `Oracle` is the truth behind a simulated expert, which is known
in experiments only.

These are protocols: any object with these members will do, whatever its class. Arrays are numpy arrays; N is
a batch size, K the number of features, "..." the shape of one state or action. Symbols are those of Chen et
al., "MEReQ" (CoRL 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mereq_min.steps import Steps
from mereq_min.validation import Array, check_number

if TYPE_CHECKING:
    import gymnasium

RewardModel = Literal["residual", "full"]
"""The reward that theta weighs: what the expert wants beyond the prior's reward, or all that it wants."""
Start = Literal["prior", "scratch"]
"""The first policy of a method: the prior, or that of theta = 0."""
Info = dict[str, Any]
"""Measures that an update reports, by name."""


class Policy(Protocol):
    """A distribution over actions in each state; the only thing that a prior must provide.

    A policy may also have an attribute `temperature`, the alpha at which it is soft-optimal for some reward
    [reward]. If it is missing or None, the temperature is unknown.
    """

    def log_prob(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the log-probability (or log-density) of actions (N, ...) in states (N, ...).

        Returns:
            (N,) log pi(a | s); -inf for an action that is never taken.
        """
        ...

    def sample(self, state: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
        """Draw one action for each of the states (N, ...); returns (N, ...)."""
        ...


class Expert(Protocol):
    """Watches the policy and takes over; the loop treats simulated experts and people alike."""

    patience: int
    """Number of policy steps just before each takeover that do not count as good enough [steps]."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a new episode with the policy in control.

        Args:
            rng: source of the expert's randomness in this episode.
        """
        ...

    def intervene(self, state: NDArray[Any], policy_action: NDArray[Any]) -> NDArray[Any] | None:
        """Decide who acts in a state (...), given the action (...) that the policy proposes there.

        Returns:
            The expert's own action (...) if the expert controls this step, else None.
        """
        ...


@dataclass(frozen=True)
class Imperfections:
    """Errors of a simulated expert; by default it makes none."""

    miss_rate: float = 0.0
    """Probability of overlooking a violation [per step]."""
    false_alarm_rate: float = 0.0
    """Probability of deciding to take over without a violation [per step under the policy's control]."""
    reaction_delay: float = 0
    """Time from the decision to take over until the takeover, which comes with the first step after it;
    violations before the last `patience` steps then count as good enough [steps]."""
    reaction_delay_range: float = 0.0
    """Largest value of a random time (uniform from 0) that each takeover is later than that [steps]."""
    reaction_delay_spread: float = 0.0
    """Mean of a random time (geometric, so memoryless) that each takeover is later than that [steps]."""
    release_delay: float = 0.0
    """Mean of a random time (geometric) for which the expert holds on after it would hand back [steps]."""
    random_action_rate: float = 0.0
    """Probability that an action of the expert is uniformly random [per step under the expert's control]."""
    repeat_rate: float = 0.0
    """Probability of doing the last action again instead of choosing one [per step under the expert's
    control, but for the first of an intervention]."""
    temperature_ratio: float = 1.0
    """Temperature of the expert's actions divided by the task's; above 1 they are noisier, and more so where
    little is at stake."""
    wish_share: float = 1.0
    """While in control, the expert acts for wish_share theta*; below 1 it is half-hearted."""
    myopia: float = 0.0
    """Relative reduction of the expert's discount factor: it plans for theta* with gamma (1 - myopia). The
    log pi of the prior in its policy is unchanged."""
    fatigue: float = 0.0
    """Growth of `miss_rate`, `random_action_rate` and `repeat_rate` in an episode: at time t they are
    multiplied by 1 + fatigue t, and capped at 1 [per step]."""

    def __post_init__(self) -> None:
        for name in ("miss_rate", "false_alarm_rate", "random_action_rate", "repeat_rate", "myopia"):
            check_number(name, getattr(self, name), 0, 1)
        check_number("temperature_ratio", self.temperature_ratio, 0, exclusive=True)
        delays = ("reaction_delay", "reaction_delay_range", "reaction_delay_spread", "release_delay")
        for name in (*delays, "wish_share", "fatigue"):
            check_number(name, getattr(self, name), 0)

    @property
    def changes_policy(self) -> bool:
        """Whether the errors change the expert's policy itself: its temperature, theta* or foresight."""
        return (self.temperature_ratio, self.wish_share, self.myopia) != (1.0, 1.0, 0.0)


class Oracle(Protocol):
    """The truth behind a simulated expert: its reward, its policy, and the rule by which it objects.

    Simulated experts and measures use it; the methods never see it.
    """

    @property
    def true_theta(self) -> Array:
        """theta* (K,), the residual reward that a method should find."""
        ...

    @property
    def patience(self) -> int:
        """Consecutive violations before a takeover [steps]."""
        ...

    @property
    def release(self) -> int:
        """Consecutive steps without a violation before the expert hands back [steps]."""
        ...

    @property
    def expert_policy(self) -> Policy:
        """Policy by which the expert acts while it is in control."""
        ...

    def violates(self, state: NDArray[Any], action: NDArray[Any]) -> bool:
        """Return whether the expert objects to an action (...) in a state (...)."""
        ...

    def make_expert(self, imperfections: Imperfections = Imperfections()) -> Expert:
        """Return a simulated expert who takes over by this rule, with the given errors."""
        ...

    def true_weights(self, reward: RewardModel) -> Array | None:
        """Return the true weights (K,): theta*, or those of the full reward; None if those are unknown."""
        ...

    def reward_distance(self, theta: Array, reward: RewardModel) -> float:
        """Return the STARC distance of theta . f to the true reward; NaN if it cannot be computed."""
        ...


class Learner(Protocol):
    """Knows the policy for a theta, and how that policy's features respond to theta.

    It may be a sparse solve or residual SAC: the loop treats them alike.
    """

    discount: float
    """Weight of time in feature expectations: a step at time t counts discount**t, for expert and policy."""
    is_exact: bool
    """Whether its policies and expectations are exact up to rounding; those of a network are not."""

    @property
    def policy(self) -> Policy:
        """The last solved policy; `restore` restores it too."""
        ...

    def solve(self, theta: Array) -> Policy:
        """Return the (customised) policy for reward weights theta (K,), starting from the last solution."""
        ...

    def mean_features(self) -> Array:
        """Return the mean features (K,) of the last solved policy over whole episodes."""
        ...

    def mean_features_covariance(self) -> Array:
        """Return the covariance (K, K) of `mean_features`' sampling errors, 0 where they are exact."""
        ...

    def mean_features_jacobian(self) -> Array:
        """Return the derivative (K, K) of `mean_features` in theta, [k, j] = d f_bar_k / d theta_j."""
        ...

    def scores(self, steps: Steps) -> Array:
        """Return the gradient (N, K), at the last theta, of log pi_hat of each step's action."""
        ...

    def information(self, steps: Steps) -> Array:
        """Return the Fisher information (K, K) on theta in the actions of the steps, at the last theta."""
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that a later `solve` depends on, as named arrays."""
        ...

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Continue from what `arrays` returned."""
        ...


@dataclass(frozen=True, eq=False)
class FeatureSums:
    """Features that a policy collects from m states, each for some number of steps.

    Attributes:
        mean: (m, K) expected sums of the features; steps after a terminal state add nothing.
        jacobian: (m, K, K) derivatives of the means, [i, k, j] = d mean_ik / d theta_j.
        covariance: (m, K, K) covariance of the sums along a single path.
        n_paths: simulated paths from each state; inf if mean and derivative are exact.
    """

    mean: Array
    jacobian: Array
    covariance: Array
    n_paths: float


class SegmentLearner(Learner, Protocol):
    """A learner that can start its policy where recorded steps were taken.

    Over a simulator it needs environments that can copy their state, see `deep.rollouts.CopyingEnvs`.
    """

    can_restart: bool
    """Whether it can; False if its environments cannot copy their state."""

    def feature_sums(
        self,
        steps: Steps,
        rows: NDArray[np.intp],
        counts: NDArray[np.int64],
        varied: NDArray[np.int64],
        n_paths: int,
    ) -> FeatureSums:
        """Return the features that the last solved policy collects, starting from recorded states.

        Args:
            steps: whole rollouts.
            rows: (m,) rows of `steps` at whose states to start.
            counts: (m,) number of steps to take from each, at least 0; the time limit of the episode must not
                fall within them.
            varied: (m,) number of leading steps in which the derivative lets the policy vary with theta; in
                the steps after them it is held fixed.
            n_paths: paths to simulate from each state, at least 2; without effect where sums are exact.

        Raises:
            ValueError: if the state of the simulator at these steps cannot be found.
        """
        ...


class TemperedLearner(Learner, Protocol):
    """A learner whose last parameter weighs the prior: it solves for (theta, omega' / omega'_0 - 1) (K + 1,).

    omega'_0 is `Task.scaled_prior_weight`. Scores (N, K + 1) and information cover all K + 1 parameters. A
    task that supports this has a method `make_tempered_learner(seed=...)`, which returns such a learner.
    """

    def information(self, steps: Steps, weights: Array | None = None) -> Array:
        """Return the Fisher information (K + 1, K + 1) in the actions of steps with weights (N,)."""
        ...


class Cloner(Protocol):
    """Behaviour cloning: fits a policy by weighted maximum likelihood, starting from the prior."""

    def clone(self, steps: Steps, weights: Array) -> Policy:
        """Return the policy fitted to the actions of the steps with weights (N,) >= 0."""
        ...


class Task(Protocol):
    """An environment with named linear features and a prior policy to align.

    It does not contain anybody's reward: what an experiment knows of the expert's is in `oracle`.

    A task may also have a method `features_of(state, action, next_state, reward)` that computes the features
    (N, K) of recorded steps, for logs that lack them; `next_state` or `reward` may be None. A task that never
    needs next states says so by an attribute `features_need_next_state` that is False. `make_baseline(kind,
    seed=...)` returns a `Cloner` for a baseline, see `methods.Baseline`; without it `make_aligner` refuses
    the baselines. `recorded_settings` is a `loop.Settings` that replaces the defaults.

    MEReQ-R needs `make_tempered_learner(seed=...)`, see `TemperedLearner`. MEReQ-S needs a `SegmentLearner`;
    with any other learner it falls back to MEReQ-R.
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
    def prior(self) -> Policy:
        """The policy to align."""
        ...

    @property
    def temperature(self) -> float:
        """alpha_hat, the temperature of the aligned policy [reward]."""
        ...

    @property
    def scaled_prior_weight(self) -> float:
        """omega' = omega alpha, the factor of log pi in residual Q-learning [reward].

        alpha is the temperature of the prior in use; if it is unknown, alpha_hat is used. See
        `residual.scaled_prior_weight`.
        """
        ...

    @property
    def oracle(self) -> Oracle | None:
        """The truth behind the simulated expert; None if it is unknown."""
        ...

    def make_env(self, render_mode: str | None = None, *, reference: bool = False) -> gymnasium.Env[Any, Any]:
        """Return a new environment with the time limit applied.

        The info of each step holds `features` (K,), those of the step just taken.

        Args:
            render_mode: as in gymnasium; "rgb_array" must work.
            reference: whether to use the simulator on which results are reported, for tasks that train on a
                faster one.
        """
        ...

    def make_learner(
        self, reward: RewardModel, discount: float, *, start: Start = "prior", seed: int = 0
    ) -> Learner:
        """Return a learner of the residual reward on the prior, or of the full reward without it.

        Args:
            reward: the reward whose weights are theta.
            discount: discount of its feature expectations, see `Learner.discount`.
            start: whether the networks of a learner of the full reward start from those of the prior or
                from scratch; without effect on other learners.
            seed: seed of the learner's randomness, if it has any.
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
            episodes: number of episodes; default: the task's choice. Tasks with exact measures refuse it.
            reference: see `make_env`.

        Returns:
            `task_return`: mean return of an episode under the environment's reward; further measures of the
            task, such as `success`, the share of episodes in which the task is done; and, with an oracle,
            `expert_return`: mean return under the expert's reward; `kl_to_expert`: mean KL(expert || policy)
            over the expert's steps [nats]; `feature_divergence`: (K,) Jensen-Shannon divergence of each
            feature's distribution from the expert's [bits].
        """
        ...

    def load_policy(self, arrays: dict[str, NDArray[Any]]) -> Policy:
        """Rebuild a policy of this task from the arrays that its `arrays()` returned."""
        ...


class Aligner(Protocol):
    """A running method: a first policy, and after each iteration an update from all steps so far."""

    policy: Policy
    """The policy to roll out next."""
    info: Info
    """The current estimate: `theta` (None where none is inferred) and its `standard_errors`."""

    def update(self, steps: Steps, patience: int) -> tuple[Policy, Info]:
        """Update the policy from all steps so far.

        Args:
            steps: the steps of all iterations.
            patience: policy steps before each takeover that are not good enough, see `Expert.patience`.

        Returns:
            The new `policy`, and a report of the fit, `theta` included.
        """
        ...

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that later updates depend on, as named arrays."""
        ...

    def restore(self, arrays: dict[str, NDArray[Any]], steps: Steps, patience: int) -> None:
        """Continue from what `arrays` returned after the update on `steps`."""
        ...
