"""Residual soft DQN: customise a frozen prior by Q-learning on the residual reward alone.

Li et al., "Residual Q-Learning" (NeurIPS 2023), with a critic that knows how its values depend on theta. The
residual Q of the policy pi_hat splits into what theta multiplies and what it does not,

    Q_R(s, a) = psi(s, a) . theta + h(s, a),

the successor features psi (Barreto et al. 2017) and the discounted value h of straying from the prior. Both
obey a Bellman equation of one form, under pi_hat = softmax((Q_R + omega' log pi) / alpha_hat):

    psi(s, a) = f(s, a) + gamma E_s'[sum_a' pi_hat(a'|s') psi(s', a')]
    h(s, a)   =           gamma E_s'[sum_a' pi_hat(a'|s') (h + omega' log pi - alpha_hat log pi_hat)(a'|s')]

so that one network of A x (K + 1) outputs learns both, and their sum has the target r_R + gamma V_R(s') of
residual Q-learning. A new theta moves Q_R by psi . dtheta at once, which is right to first order (psi is the
derivative of Q_R); what is left for gradient steps is the second order. Without a prior this is soft DQN, and
at temperature 0 (H has no weight, pi_hat is greedy) it is DQN.

Book: eq-critic-split, eq-stray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deep.nets import (
    find_activation,
    load_arrays,
    load_optimiser,
    mlp,
    mlp_from_arrays,
    mlp_to_arrays,
    optimiser_to_arrays,
    to_arrays,
    to_tensor,
    with_prefix,
    zero_last_layer,
)
from deep.policies import DiscretePolicy, EpsilonPolicy, all_log_probs
from deep.replay import Batch, Replay
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array, check_number


@dataclass(frozen=True)
class DQNConfig:
    """Settings of residual soft DQN."""

    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers [units]."""
    learning_rate: float = 3e-3
    """Step size of Adam [1]."""
    batch_size: int = 256
    """Transitions of a gradient update [transitions]."""
    replay_capacity: int = 25_000
    """Transitions that are kept [transitions]."""
    target_rate: float = 0.02
    """Share of the network that the target network takes over at each update (Polyak averaging) [1]."""
    exploration_steps: int = 50_000
    """At temperature 0, transitions over which epsilon falls from 1 to `final_epsilon` [transitions]."""
    final_epsilon: float = 0.05
    """At temperature 0, share of random actions that stays [1]."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_number("batch_size", self.batch_size, 1, whole=True)
        check_number("replay_capacity", self.replay_capacity, 1, whole=True)
        check_number("target_rate", self.target_rate, 0, 1, above=True)
        check_number("exploration_steps", self.exploration_steps, 1, whole=True)
        check_number("final_epsilon", self.final_epsilon, 0, 1)


def policy_of(q: torch.Tensor, next_bonus: torch.Tensor, temperature: float) -> torch.Tensor:
    """pi_hat (N, A) = softmax((Q_R + omega' log pi) / alpha_hat); greedy at temperature 0.

    Args:
        q: (N, A) Q_R.
        next_bonus: (N, A) omega' log pi.
        temperature: alpha_hat [reward].
    """
    logits = q + next_bonus
    if temperature == 0:
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).to(q.dtype)
    return torch.softmax(logits / temperature, dim=1)


def targets(
    batch: Batch, policy: torch.Tensor, next_values: torch.Tensor, temperature: float, gamma: float
) -> torch.Tensor:
    """Bellman targets (N, K + 1) of psi and h for the transitions of a batch.

    Where the episode terminated nothing comes after; where a time limit cut it, the values of the next state
    stand for what would have come.

    Book: eq-critic-targets.

    Args:
        batch: features (N, K), next_bonus (N, A) and terminated (N,) of the transitions.
        policy: (N, A) pi_hat(. | s').
        next_values: (N, A, K + 1) psi and h at s'.
        temperature: alpha_hat [reward].
        gamma: discount factor.
    """
    entropy = torch.special.entr(policy).sum(dim=1)
    stray = (policy * batch["next_bonus"]).sum(dim=1) + temperature * entropy
    onward = torch.einsum("na,nak->nk", policy, next_values)
    onward[:, -1] += stray
    now = nn.functional.pad(batch["features"], (0, 1))
    return now + gamma * torch.where(batch["terminated"], 0.0, 1.0)[:, None] * onward


def critic_loss(values: torch.Tensor, action: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of |(psi, h)(s, a) - target|^2, for values (N, A, K + 1) and target (N, K + 1)."""
    taken = values[torch.arange(len(action)), action]
    return (taken - target).square().sum(dim=1).mean()


class ResidualDQN:
    """Residual soft DQN on a frozen prior; soft DQN without one, DQN at temperature 0.

    Args:
        n_inputs: numbers in an observation.
        n_actions: A.
        n_features: K.
        gamma: discount factor.
        temperature: alpha_hat of the policy [reward]; 0 only without a prior.
        prior: the policy that is customised; None for plain control of theta . f.
        scaled_prior_weight: omega' = omega * alpha [reward].
        input_scale: (n_inputs,) what observations are multiplied by first, see `nets.mlp`.
        config: settings.
        seed: of the initial weights and of the batches.

    Raises:
        ValueError: on malformed numbers.
    """

    def __init__(
        self,
        n_inputs: int,
        n_actions: int,
        n_features: int,
        *,
        gamma: float,
        temperature: float,
        prior: Policy | None = None,
        scaled_prior_weight: float = 0.0,
        input_scale: NDArray[Any] | None = None,
        config: DQNConfig | None = None,
        seed: int = 0,
    ) -> None:
        check_number("gamma", gamma, 0, 1)
        check_number("temperature", temperature, 0, above=prior is not None)
        check_number("scaled_prior_weight", scaled_prior_weight, 0)
        self.n_inputs, self.n_actions, self.n_features = n_inputs, n_actions, n_features
        self.gamma, self.temperature = gamma, temperature
        self.prior, self.scaled_prior_weight = prior, scaled_prior_weight
        self.config, self.seed = config or DQNConfig(), seed
        sizes = [n_inputs, *self.config.hidden, n_actions * (n_features + 1)]
        self.net, self.target_net = (mlp(sizes, seed, input_scale) for _ in range(2))
        for net in (self.net, self.target_net):
            zero_last_layer(net)  # Q_R = 0: with alpha_hat = omega' the first policy is the prior
        self.optimiser = self._make_optimiser()
        self.replay = Replay(self.config.replay_capacity)
        self.theta: Array = np.zeros(n_features)
        self.updates_done = 0

    def start_from(self, policy: Policy) -> None:
        """Begin with the hidden layers of another policy's network and with its logits as h: fine-tuning.

        The policy is then that one whatever theta is, until gradient steps teach psi.

        Raises:
            ValueError: unless it is a softmax of a network alone, with this agent's inputs and actions.
        """
        if not isinstance(policy, DiscretePolicy) or policy.prior is not None or policy.temperature == 0:
            raise ValueError(
                "fine-tuning needs a DiscretePolicy of one network, without a prior, "
                f"got {type(policy).__name__}"
            )
        if find_activation(policy.net) < 0:
            raise ValueError(f"fine-tuning needs a network built like `deep.nets.mlp`, got {policy.net}")
        arrays = mlp_to_arrays(policy.net)
        sizes = arrays["1.weight"].shape[1], len(list(arrays.values())[-1])
        if sizes != (self.n_inputs, self.n_actions):
            raise ValueError(
                f"fine-tuning needs {self.n_inputs} inputs and {self.n_actions} actions, got {sizes}"
            )
        for name in list(arrays)[-2:]:  # weight and bias of the last layer
            heads = np.zeros((self.n_actions, self.n_features + 1, *arrays[name].shape[1:]), np.float32)
            heads[:, -1] = arrays[name] * (self.temperature / policy.temperature)
            arrays[name] = heads.reshape(-1, *arrays[name].shape[1:])
        self.net, self.target_net = mlp_from_arrays(arrays), mlp_from_arrays(arrays)
        self.optimiser = self._make_optimiser()

    def add(
        self,
        state: NDArray[Any],
        action: NDArray[np.int64],
        features: Array,
        next_state: NDArray[Any],
        terminated: NDArray[np.bool_],
    ) -> None:
        """Store N transitions, together with what the prior says at their next states.

        Args:
            state: (N, ...) observations.
            action: (N,) actions.
            features: (N, K) f(s, a).
            next_state: (N, ...) observations that followed; after a cut, the one before the reset.
            terminated: (N,) whether the episode ended there in the MDP; a time limit does not count.

        Raises:
            ValueError: if the columns do not fit together, or are not finite.
        """
        self.replay.add(
            state=np.asarray(state, dtype=np.float32),
            action=np.asarray(action, dtype=np.int64),
            features=check_array("features", features, shape=(len(state), self.n_features)),
            next_state=np.asarray(next_state, dtype=np.float32),
            terminated=np.asarray(terminated, dtype=bool),
            next_bonus=self._bonus(next_state),
        )

    def update(self, theta: Array, n_updates: int) -> dict[str, float]:
        """Take gradient steps on psi and h under the policy for theta (K,).

        Returns:
            loss: mean over the updates of mean_batch |(psi, h)(s, a) - target|^2;
            q_residual: mean_batch Q_R(s, a) in the last one [reward];
            entropy: mean_batch H(pi_hat(. | s')) in the last one [nats].

        Raises:
            ValueError: if theta is malformed, or the replay is empty.
        """
        self.theta = check_array("theta", theta, shape=(self.n_features,))
        check_number("n_updates", n_updates, 1, whole=True)
        weights = self._weights()
        rng = np.random.default_rng([self.seed, self.updates_done])
        parameters: list[torch.Tensor] = [*self.net.parameters()]
        target_parameters: list[torch.Tensor] = [*self.target_net.parameters()]
        total = torch.zeros(())
        for _ in range(n_updates):
            batch = self.replay.sample(self.config.batch_size, rng)
            with torch.no_grad():
                next_values = self._heads(self.target_net, batch["next_state"])
                # Double DQN (van Hasselt et al. 2016): a maximum picks what the target network overrates.
                # A soft policy spreads over actions and gained nothing from a second network.
                judge = next_values if self.temperature > 0 else self._heads(self.net, batch["next_state"])
                policy = policy_of(judge @ weights, batch["next_bonus"], self.temperature)
                target = targets(batch, policy, next_values, self.temperature, self.gamma)
            values = self._heads(self.net, batch["state"])
            loss = critic_loss(values, batch["action"], target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(target_parameters, parameters, self.config.target_rate)
            total += loss.detach()
        self.updates_done += n_updates
        return {
            "loss": float(total) / n_updates,
            "q_residual": float((target @ weights).mean()),
            "entropy": float(torch.special.entr(policy).sum(dim=1).mean()),
        }

    def policy(self) -> DiscretePolicy:
        """The policy for the last theta, frozen: later updates do not change it."""
        arrays = mlp_to_arrays(self.target_net)
        weights = self._weights().numpy()
        for name in list(arrays)[-2:]:  # weight and bias of the last layer
            heads = arrays[name].reshape(self.n_actions, self.n_features + 1, -1)
            arrays[name] = np.einsum("akh,k->ah", heads, weights).reshape(
                self.n_actions, *arrays[name].shape[1:]
            )
        scale = self.scaled_prior_weight / self.temperature if self.prior is not None else 0.0
        return DiscretePolicy(mlp_from_arrays(arrays), self.temperature, self.prior, scale)

    def explorer(self) -> Policy:
        """The policy to collect transitions with: a soft one as it is, a greedy one epsilon-greedily."""
        if self.temperature > 0:
            return self.policy()
        progress = min(self.replay.added / self.config.exploration_steps, 1.0)
        return EpsilonPolicy(
            self.policy(), 1.0 + progress * (self.config.final_epsilon - 1.0), self.n_actions
        )

    def successor_features(self, state: NDArray[Any]) -> Array:
        """psi(s, a) (N, A, K) of the policy in states (N, ...)."""
        with torch.no_grad():
            values = self._heads(self.target_net, to_tensor(state))
        return values[..., :-1].numpy().astype(np.float64)

    def score(self, state: NDArray[Any], action: NDArray[np.int64]) -> Array:
        """grad_theta log pi_hat(a | s) (N, K) = (psi(s, a) - E_pi_hat[psi(s, .)]) / alpha_hat.

        Book: eq-neural-score.
        """
        centred, _ = self._centred(state)
        return centred[np.arange(len(centred)), action] / self.temperature

    def information(self, state: NDArray[Any]) -> Array:
        """Fisher information (N, K, K) of an action in each state: Cov_pi_hat[psi(s, .)] / alpha_hat^2."""
        centred, probability = self._centred(state)
        return np.einsum("na,nak,nal->nkl", probability, centred, centred) / self.temperature**2

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that later updates depend on, as named arrays."""
        replay = {"replay." + name: value for name, value in self.replay.state().items()}
        return {
            **to_arrays(self.net, "net."),
            **to_arrays(self.target_net, "target_net."),
            **optimiser_to_arrays(self.optimiser, "optimiser."),
            **replay,
            "agent_theta": self.theta,
            "updates_done": np.array(self.updates_done),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` returned.

        Raises:
            ValueError: if arrays are missing, of another shape or not finite.
        """
        missing = {"agent_theta", "updates_done"} - set(state)
        if missing:
            raise ValueError(f"no state of an agent: {sorted(missing)} missing, got {sorted(state)}")
        self.theta = check_array("agent_theta", state["agent_theta"], shape=(self.n_features,))
        self.updates_done = int(state["updates_done"])
        load_arrays(self.net, state, "net.")
        load_arrays(self.target_net, state, "target_net.")
        load_optimiser(self.optimiser, state, "optimiser.")
        self.replay.restore(with_prefix(state, "replay."))

    def _make_optimiser(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.net.parameters(), lr=self.config.learning_rate, fused=True)

    def _heads(self, net: nn.Module, state: torch.Tensor) -> torch.Tensor:
        """psi and h (N, A, K + 1)."""
        return net(state).view(len(state), self.n_actions, self.n_features + 1)

    def _weights(self) -> torch.Tensor:
        """What makes Q_R of psi and h: (theta, 1)."""
        return to_tensor(np.append(self.theta, 1.0))

    def _bonus(self, state: NDArray[Any]) -> Array:
        """omega' log pi (N, A), with a large finite number for -inf, so that 0 times it is 0."""
        if self.prior is None or self.scaled_prior_weight == 0:
            return np.zeros((len(state), self.n_actions))
        return np.maximum(self.scaled_prior_weight * all_log_probs(self.prior, state, self.n_actions), -1e6)

    def _centred(self, state: NDArray[Any]) -> tuple[Array, Array]:
        """psi less its mean under the policy (N, A, K), and the policy's probabilities (N, A)."""
        probability = np.exp(self.policy().log_probs(state))
        psi = self.successor_features(state)
        return psi - np.einsum("na,nak->nk", probability, psi)[:, None, :], probability
