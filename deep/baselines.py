"""Baselines with networks that learn from interventions without a theta; each is an `interfaces.Cloner`.

They are those of `mereq_min.baselines` and `mereq_min.peers`, and start from the prior. Each fit begins anew,
so that a policy depends on the steps and the seed alone. Residual-BC, MILE and PPL take as many gradient
updates as the task's cloning, with its learning rate, batches and pull towards the prior; RLIF and PVP train
the task's agent for `AGENT_UPDATES` with the agent's own settings. Their other settings are those of the
tabular versions, or guesses in multiples of alpha_hat. None was tuned on a task with networks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, softplus

from deep.cloning import CloningConfig, NeuralCloner, check_weights, descend
from deep.gaussian import SquashedGaussianPolicy
from deep.learner import Agent
from deep.nets import (
    ACTIVATIONS,
    find_activation,
    mlp,
    mlp_from_arrays,
    mlp_to_arrays,
    to_tensor,
    zero_last_layer,
)
from deep.policies import DiscretePolicy
from mereq_min.baselines import takeovers
from mereq_min.interfaces import Policy
from mereq_min.peers import LEAST_PROBABILITY
from mereq_min.steps import Steps
from mereq_min.validation import Array

AGENT_UPDATES = 2_000
"""Gradient updates of RLIF and PVP in a fit [updates]."""
LABEL_WEIGHTS = {"takeover reward": 10.0, "proxy values": 5.0}
"""Cost of a takeover in RLIF, and weight of a proxy value of 1 in PVP, in multiples of alpha_hat."""

Transitions = dict[str, NDArray[Any]]
"""The columns that `Agent.add` takes."""


# --- RLIF and PVP -----------------------------------------------------------------------------------------


class AgentCloner:
    """Trains an agent of one feature on steps whose rewards are made from the takeovers.

    Args:
        prior: the policy to start from.
        make_agent: returns a new agent of one feature, which customises the prior.
        label: turns steps into transitions: `label_takeovers` for RLIF, `label_proxy_values` for PVP.
        weight: theta, the weight of the feature [reward].
        updates: gradient updates of a fit [updates].
    """

    def __init__(
        self,
        prior: Policy,
        make_agent: Callable[[], Agent],
        label: Callable[[Steps], Transitions],
        weight: float,
        updates: int = AGENT_UPDATES,
    ) -> None:
        self.prior, self.make_agent, self.label = prior, make_agent, label
        self.weight, self.updates = weight, updates

    def clone(self, steps: Steps, weights: Array) -> Policy:
        """Return the agent's policy after training on the steps; steps of weight 0 are left out.

        If no step has a label, it is the prior.

        Raises:
            ValueError: if the next states were not recorded.
        """
        if steps.next_state is None:
            raise ValueError(
                "RLIF and PVP need the states after the steps (`next_state`), which this log lacks"
            )
        columns = self.label(steps.select(check_weights(steps, weights) > 0))
        if not columns["features"].any():
            return self.prior
        agent = self.make_agent()
        agent.add(**columns)
        agent.update(np.array([self.weight]), self.updates)
        return agent.policy()


def label_takeovers(steps: Steps) -> Transitions:
    """Return RLIF's transitions: the feature is -1 at a policy's step that provoked a takeover, else 0."""
    columns = _transitions(steps)
    columns["features"] = -takeovers(steps)[:, None].astype(np.float64)
    return columns


def label_proxy_values(steps: Steps) -> Transitions:
    """Return PVP's transitions, which make an agent regress on proxy values.

    Each expert step gives two terminal transitions: the expert's action with feature 1 and the policy's with
    -1, so that the value of an action is its label. The policy's own steps have feature 0 and propagate
    values. Labelled transitions are repeated until they are about as many as the policy's steps.
    """
    taken, own = steps.select(steps.is_intervention), _transitions(steps.select(~steps.is_intervention))
    good, bad = (
        {**_transitions(taken), "features": np.full((len(taken), 1), label)} for label in (1.0, -1.0)
    )
    bad["action"] = taken.policy_action
    for labelled in (good, bad):
        labelled["terminated"] = np.ones(len(taken), dtype=bool)
    copies = max(1, round(len(own["state"]) / max(2 * len(taken), 1)))
    parts = [own, *[good, bad] * copies]
    return {name: np.concatenate([part[name] for part in parts]) for name in own}


def _transitions(steps: Steps) -> Transitions:
    assert steps.next_state is not None
    return {
        "state": steps.state,
        "action": steps.action,
        "features": np.zeros((len(steps), 1)),
        "next_state": steps.next_state,
        "terminated": steps.terminated,
    }


# --- Residual-BC ------------------------------------------------------------------------------------------


class ResidualNeuralCloner(NeuralCloner):
    """Cloning as a correction on top of the frozen prior (Residual-BC): outputs of two networks are added.

    The correction has the prior's layers and starts at 0; the pull is towards its initial weights.
    """

    def clone(self, steps: Steps, weights: Array) -> DiscretePolicy | SquashedGaussianPolicy:
        """Return the prior's network plus the correction fitted to the steps, see `NeuralCloner.clone`."""
        rng = np.random.default_rng(self.seed)
        weights = check_weights(steps, weights)
        base = self.start(steps.state, rng)
        correction = start_correction(base, self.seed)
        if weights.any():
            x, y = to_tensor(steps.state), to_tensor(self.head.encode(steps.action))
            with torch.no_grad():
                frozen = base(x)

            def loss(batch: Tensor) -> Tensor:
                return self.head.loss(frozen[batch] + correction(x[batch]), y[batch])

            descend(list(correction.parameters()), loss, weights, rng, self.config, self.config.pull)
        return self.head.policy(add_networks(base, correction))


def start_correction(base: nn.Sequential, seed: int) -> nn.Sequential:
    """Return an `mlp` with the layers, input factors and activation of another, whose outputs are 0."""
    arrays = mlp_to_arrays(base)
    weights = [value for name, value in arrays.items() if name.endswith("weight")]
    sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
    net = mlp(sizes, seed, arrays.get("0.scale"), ACTIVATIONS[find_activation(base)])
    zero_last_layer(net)
    return net


def add_networks(one: nn.Sequential, two: nn.Sequential) -> nn.Sequential:
    """Return the `mlp` whose outputs are the sums of those of two that have the same layers.

    Its hidden layers hold the units of both, side by side.
    """
    arrays, others = mlp_to_arrays(one), mlp_to_arrays(two)
    layers = [name.removesuffix("weight") for name in arrays if name.endswith("weight")]
    for layer in layers:
        (a, b), (c, d) = ((each[layer + "weight"], each[layer + "bias"]) for each in (arrays, others))
        if layer == layers[0] == layers[-1]:
            weight, bias = a + c, b + d
        elif layer == layers[0]:
            weight, bias = np.concatenate([a, c]), np.concatenate([b, d])
        elif layer == layers[-1]:
            weight, bias = np.concatenate([a, c], axis=1), b + d
        else:
            weight = np.block([[a, np.zeros((len(a), c.shape[1]))], [np.zeros((len(c), a.shape[1])), c]])
            bias = np.concatenate([b, d])
        arrays[layer + "weight"], arrays[layer + "bias"] = weight, bias
    return mlp_from_arrays(arrays)


# --- MILE -------------------------------------------------------------------------------------------------


class InterventionCloner(NeuralCloner):
    """MILE with networks: the person's policy and the mental model, fitted together.

    The loss is the mean of -log pi over the expert's actions, plus the mean cross-entropy of who was in
    control; see `mereq_min.peers.InterventionModel`. Both networks start as the prior's and are pulled there.
    """

    COST = 3.0
    """Cost of an intervention to the person, as in the tabular version [nats]."""
    SCALE = 1.0
    """Scale of the probit model's noise [nats]. Over a Box the authors take costs of 60 to 250 and scales of
    75 to 200, because log-densities vary more."""

    def clone(self, steps: Steps, weights: Array) -> DiscretePolicy | SquashedGaussianPolicy:
        """Return the person's policy, fitted to steps of weight > 0; the prior if none is the expert's."""
        rng = np.random.default_rng(self.seed)
        policy = self.start(steps.state, rng)
        steps = steps.select(check_weights(steps, weights) > 0)
        if steps.is_intervention.any():
            self._fit_both(policy, steps, rng)
        return self.head.policy(policy)

    def _fit_both(self, policy: nn.Sequential, steps: Steps, rng: np.random.Generator) -> None:
        """Fit the person's policy, and the mental model beside it."""
        mental = copy.deepcopy(policy)
        x, y = to_tensor(steps.state), to_tensor(self.head.encode(steps.action))
        taken = torch.as_tensor(steps.is_intervention)

        def loss(batch: Tensor) -> Tensor:
            output, expected, mine = policy(x[batch]), mental(x[batch]), taken[batch]
            p = self.head.intervention_probability(output, expected, self.COST, self.SCALE)
            p = p.clamp(LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
            of_control = binary_cross_entropy(p, mine.float())
            return of_control + self.head.loss(output[mine], y[batch][mine]) if mine.any() else of_control

        parameters = [*policy.parameters(), *mental.parameters()]
        descend(parameters, loss, np.ones(len(steps)), rng, self.config, self.config.pull)


# --- PPL --------------------------------------------------------------------------------------------------


class PreferenceCloner(NeuralCloner):
    """PPL with networks, see `mereq_min.peers.PredictedPreferences`.

    Args:
        prior: policy to start from, see `NeuralCloner`.
        space: space of the actions.
        config: budget.
        seed: seed of the batches.
        predict: (states (N, ...), actions (N, ...), n) -> (n, N, ...), the states to come if the actions are
            held.
    """

    HORIZON = 4
    """States with a preference: that of the takeover, and the predicted ones after it [states]."""
    BETA = 1.0
    """Sharpness of preferences."""

    def __init__(
        self,
        prior: Policy,
        space: spaces.Space[Any],
        config: CloningConfig | None = None,
        *,
        predict: Callable[[NDArray[Any], NDArray[Any], int], NDArray[Any]],
        seed: int = 0,
    ) -> None:
        super().__init__(prior, space, config, seed=seed)
        self.predict = predict

    def clone(self, steps: Steps, weights: Array) -> DiscretePolicy | SquashedGaussianPolicy:
        """Return the policy fitted to the expert's actions and preferences, with weights (N,) >= 0."""
        rng = np.random.default_rng(self.seed)
        net = self.start(steps.state, rng)
        weights = check_weights(steps, weights)
        by_expert = steps.is_intervention & (weights > 0)
        if by_expert.any():
            self._prefer(net, steps.select(by_expert), weights[by_expert], rng)
        return self.head.policy(net)

    def _prefer(self, net: nn.Sequential, steps: Steps, weights: Array, rng: np.random.Generator) -> None:
        """Fit a network to expert steps."""
        ahead = self.predict(steps.state, steps.policy_action, self.HORIZON - 1)
        states = to_tensor(np.concatenate([steps.state[None], ahead]))
        better, worse = (to_tensor(self.head.encode(a)) for a in (steps.action, steps.policy_action))

        def loss(batch: Tensor) -> Tensor:
            outputs = [net(x[batch]) for x in states]
            cloned = self.head.loss(outputs[0], better[batch])
            return cloned + self.contrast(outputs, better[batch], worse[batch])

        descend(list(net.parameters()), loss, weights, rng, self.config, self.config.pull)

    def contrast(self, outputs: list[Tensor], better: Tensor, worse: Tensor) -> Tensor:
        """Return the mean of -log sigmoid(beta (log pi(a+ | s) - log pi(a- | s))).

        Args:
            outputs: of the network (N, n) in each state of the horizon.
            better: (N, ...) encoded actions a+.
            worse: (N, ...) encoded actions a-; where they are a+ there is no preference, and the loss is 0.
        """
        differs = (better != worse).any(dim=1)
        margins = [self.head.log_prob(each, better) - self.head.log_prob(each, worse) for each in outputs]
        return (differs * softplus(-self.BETA * torch.stack(margins))).mean()
