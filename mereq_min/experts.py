"""Simulated experts, who take over and hand back by rule, or demonstrate whole episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mereq_min.interfaces import Imperfections, Policy, RewardModel
from mereq_min.policies import UniformPolicy
from mereq_min.validation import Array, check_array, check_number

Violation = Callable[[NDArray[Any], NDArray[Any]], bool]
"""(state, action) -> whether the expert objects to the action."""

PRESETS = {
    "none": Imperfections(),
    "human": Imperfections(
        miss_rate=0.2,
        false_alarm_rate=0.01,
        reaction_delay=1,
        random_action_rate=0.1,
        temperature_ratio=1.5,
    ),
}
"""Imperfections by name. The human is not fitted to people: it is an expert who errs in five ways at once."""

PRIOR_RATE, EXPERT_RATE = (0.25, 0.5), 0.03
"""Intervention rates that a simulated expert should have: their range on the prior, which must leave
something to align, and the largest on the expert's own policy."""

REACTION = (0.3, 0.8)
"""Range of a person's time from the decision to take over until the key, drawn at each takeover [s]."""
HOLDING_ON = 0.5
"""Mean time for which a person holds on after there is no reason to [s]."""
TIRING = 0.02
"""Growth of a person's misses and slips within an episode, see `Imperfections.fatigue` [1/s]."""


def make_human(rate: float, share: float = 1.0) -> Imperfections:
    """The errors of the preset `human`, with a person's times at a task's own rate.

    The reaction time of real people to what they see and expect is a few tenths of a second; the other two
    times are guesses.

    Args:
        rate: steps that the person watches in a second [1/s].
        share: by how much the errors and times are those of a person; 0 is an ideal expert.
    """
    check_number("rate", rate, 0, exclusive=True)
    check_number("share", share, 0, 1)
    errors = PRESETS["human"]
    return Imperfections(
        miss_rate=share * errors.miss_rate,
        false_alarm_rate=share * errors.false_alarm_rate,
        reaction_delay=share * REACTION[0] * rate,
        reaction_delay_range=share * (REACTION[1] - REACTION[0]) * rate,
        release_delay=share * HOLDING_ON * rate,
        random_action_rate=share * errors.random_action_rate,
        temperature_ratio=1.0 + share * (errors.temperature_ratio - 1.0),
        fatigue=share * TIRING / rate,
    )


class SimulatedExpert:
    """Takes over after `patience` consecutive violations, hands back after `release` steps without one.

    The violations that provoke a takeover are those of the `patience` executed steps just before it (with a
    reaction delay, of earlier ones). The expert then controls at least `release` steps.

    Args:
        policy: how the expert acts once in control.
        violation: whether the policy's action in a state is a violation. A state rule lists the forbidden
            (state, action); a value rule bounds the advantage of the action under the expert's policy.
        patience: consecutive violations before a takeover, >= 1 [steps].
        release: consecutive steps without violation before handing back, >= 1 [steps].
        imperfections: errors of the expert; `policy` must already have those of `changes_policy`.
        slips: distribution of random actions; needed if there are any.

    Attributes:
        delay: time from the last decision to take over until its takeover, not yet rounded down [steps].

    Raises:
        ValueError: if `patience` or `release` is below 1, or `slips` is missing.
    """

    def __init__(
        self,
        policy: Policy,
        violation: Violation,
        *,
        patience: int,
        release: int,
        imperfections: Imperfections = Imperfections(),
        slips: Policy | None = None,
    ) -> None:
        check_number("patience", patience, 1, integer=True)
        check_number("release", release, 1, integer=True)
        if imperfections.random_action_rate > 0 and slips is None:
            raise ValueError("an expert with random actions needs slips=UniformPolicy(action_space)")
        self.slips = slips
        self.policy, self.violation = policy, violation
        self.patience, self.release = patience, release
        self.imperfections = imperfections
        self.delay = 0.0
        self._hand_back()

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a new episode with the policy in control; `rng` draws the expert's actions and errors."""
        self.rng = rng
        self._t = 0
        self._hand_back()

    def _hand_back(self) -> None:
        self._controls = False
        # Consecutive violations while the policy is in control, steps without one while the expert is.
        self._streak = 0
        self._due: int | None = None  # steps until a change of control that is already decided
        self._last_action: NDArray[Any] | None = None  # of this intervention

    def intervene(self, state: NDArray[Any], policy_action: NDArray[Any]) -> NDArray[Any] | None:
        """Return the expert's action if it controls this step, else None; see `interfaces.Expert`."""
        if self._controls:
            self._consider_hand_back()
        else:
            self._consider_takeover()
        violates = self._sees_violation(state, policy_action)
        self._streak = self._streak + 1 if violates != self._controls else 0
        if self._controls:
            self._last_action = self._act(state)
        self._t += 1
        return self._last_action

    def _act(self, state: NDArray[Any]) -> NDArray[Any]:
        if self._last_action is not None and self._errs("repeat_rate"):
            return self._last_action
        policy = self.slips if self.slips is not None and self._errs("random_action_rate") else self.policy
        return policy.sample(np.asarray(state)[None], self.rng)[0]

    def _errs(self, name: str) -> bool:
        """Draw whether an error happens at the rate of that name, which grows with fatigue."""
        rate: float = getattr(self.imperfections, name)
        return rate > 0 and bool(self.rng.random() < rate * (1.0 + self.imperfections.fatigue * self._t))

    def _consider_takeover(self) -> None:
        if self._due is None:
            rate = self.imperfections.false_alarm_rate
            false_alarm = rate > 0 and self.rng.random() < rate
            if self._streak >= self.patience or false_alarm:
                self.delay = self._draw_delay()
                self._due = int(self.delay)
        if self._due == 0:
            self._controls, self._streak, self._due = True, 0, None
        elif self._due is not None:
            self._due -= 1

    def _consider_hand_back(self) -> None:
        if self._due is None and self._streak >= self.release:
            self._due = self._draw_geometric(self.imperfections.release_delay)
        if self._due == 0:
            self._hand_back()
        elif self._due is not None:
            self._due -= 1

    def _draw_delay(self) -> float:
        errors = self.imperfections
        extra = self._draw_geometric(errors.reaction_delay_spread)
        width = errors.reaction_delay_range
        return errors.reaction_delay + extra + (self.rng.uniform(0.0, width) if width > 0 else 0.0)

    def _draw_geometric(self, mean: float) -> int:
        return int(self.rng.geometric(1.0 / (1.0 + mean))) - 1 if mean > 0 else 0

    def _sees_violation(self, state: NDArray[Any], policy_action: NDArray[Any]) -> bool:
        return not self._errs("miss_rate") and self.violation(state, policy_action)


class DemonstratingExpert:
    """Controls every step: demonstrates whole episodes instead of intervening.

    Args:
        policy: how the expert acts.
    """

    patience = 1
    """Without effect: no policy step comes before a takeover."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a new episode; `rng` draws the expert's actions."""
        self.rng = rng

    def intervene(self, state: NDArray[Any], policy_action: NDArray[Any]) -> NDArray[Any]:
        """Return the expert's action; it controls every step."""
        return self.policy.sample(np.asarray(state)[None], self.rng)[0]


class RuleOracle(ABC):
    """Base class of oracles whose simulated expert takes over by a rule."""

    true_theta: Array
    """theta* (K,), the residual reward."""
    full_weights: Array | None
    """(K,) weights of the expert's full reward, None if unknown."""
    patience: int
    """Consecutive violations before a takeover [steps]."""
    release: int
    """Consecutive steps without a violation before the expert hands back [steps]."""

    def __post_init__(self) -> None:
        for name in ("patience", "release"):
            check_number(name, getattr(self, name), 1, integer=True)
        for name in ("true_theta", "full_weights"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_array(name, getattr(self, name), ndim=1))

    @property
    @abstractmethod
    def expert_policy(self) -> Policy:
        """Policy of the expert once in control."""

    @property
    @abstractmethod
    def action_space(self) -> Any:
        """Actions of the expert, a `Discrete` or a Box of gymnasium."""

    def erring_policy(self, imperfections: Imperfections) -> Policy:
        """Return the policy of an expert whose errors change it, see `Imperfections.changes_policy`.

        Raises:
            ValueError: if the oracle has no such policies.
        """
        raise ValueError(
            "the expert of this task is a trained network, which does not support temperature_ratio, "
            "wish_share and myopia; leave them at 1, 1 and 0"
        )

    @abstractmethod
    def violates(self, state: NDArray[Any], action: NDArray[Any]) -> bool:
        """Return whether the expert objects to an action (...) in a state (...)."""

    def make_expert(self, imperfections: Imperfections = Imperfections()) -> SimulatedExpert:
        """Return a simulated expert who takes over by this rule, with the given errors.

        Raises:
            ValueError: if the oracle has no policy with these errors.
        """
        errs = imperfections.changes_policy
        return SimulatedExpert(
            self.erring_policy(imperfections) if errs else self.expert_policy,
            self.violates,
            patience=self.patience,
            release=self.release,
            imperfections=imperfections,
            slips=UniformPolicy(self.action_space) if imperfections.random_action_rate > 0 else None,
        )

    def true_weights(self, reward: RewardModel) -> Array | None:
        """Return theta* (K,), or the weights of the expert's full reward; None if those are unknown.

        Book: eq-expert-reward.
        """
        return self.true_theta if reward == "residual" else self.full_weights
