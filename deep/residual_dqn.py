"""Residual soft DQN: customise a frozen prior by Q-learning on the residual reward alone.

The method is that of Li et al., "Residual Q-Learning" (NeurIPS 2023), with a critic that also learns how its
values depend on theta. The residual Q-function of the policy pi_hat is linear in theta plus a remainder,

    Q_R(s, a) = psi(s, a) . theta + h(s, a),

where psi are the successor features (Barreto et al. 2017) and h is the discounted sum of later stray bonuses
(`bellman.stray_bonus`). Under pi_hat = softmax((Q_R + omega' log pi) / alpha_hat) they obey

    psi(s, a) = f(s, a) + gamma E_s'[sum_a' pi_hat(a'|s') psi(s', a')]
    h(s, a)   =           gamma E_s'[sum_a' pi_hat(a'|s') (h + omega' log pi - alpha_hat log pi_hat)(a'|s')]

One network of A x (K + 1) outputs learns both, and psi . theta + h has the target r_R + gamma V_R(s') of
residual Q-learning. When theta changes, Q_R changes by psi . dtheta at once. This is right to first order,
because psi is grad_theta Q_R; gradient steps only have to learn the rest. Without a prior
this is soft DQN; at temperature 0, where pi_hat is greedy and entropy has no weight, it is DQN.

Book: eq-critic-split, eq-stray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from deep.bellman import (
    FLOAT32,
    Candidates,
    bounded_log_prior,
    check_theta,
    check_training,
    critic_loss,
    critic_target,
    stray_bonus,
)
from deep.engines import Engine, check_engine, choose_engine, import_compiled
from deep.nets import (
    check_hidden,
    is_mlp,
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
from deep.policies import DiscretePolicy, EpsilonPolicy, check_indices
from deep.replay import Replay
from deep.streams import stream
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array, check_number


@dataclass(frozen=True)
class DQNConfig:
    """Settings of residual soft DQN."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers [units]."""
    learning_rate: float = 3e-3
    """Step size of Adam [1]."""
    batch_size: int = 256
    """Transitions in a gradient update [transitions]."""
    replay_capacity: int = 25_000
    """Transitions in the replay buffer [transitions]."""
    target_rate: float = 0.02
    """Polyak coefficient (tau) of the target network, which moves at each update [1]."""
    exploration_steps: int = 50_000
    """At temperature 0, transitions over which epsilon falls from 1 to `final_epsilon` [transitions]."""
    final_epsilon: float = 0.05
    """At temperature 0, probability of a random action after `exploration_steps` [1]."""
    engine: Engine | None = None
    """Library that computes the updates, see `engines.choose_engine`."""

    def __post_init__(self) -> None:
        check_engine(self.engine)
        check_hidden(self.hidden)
        check_number("learning_rate", self.learning_rate, 0, exclusive=True)
        check_number("batch_size", self.batch_size, 1, integer=True)
        check_number("replay_capacity", self.replay_capacity, 1, integer=True)
        check_number("target_rate", self.target_rate, 0, 1, exclusive=True)
        check_number("exploration_steps", self.exploration_steps, 1, integer=True)
        check_number("final_epsilon", self.final_epsilon, 0, 1)


def soft_candidates(
    q: torch.Tensor, log_prior: torch.Tensor, scaled_prior_weight: float, temperature: float
) -> Candidates:
    """Return all actions with probabilities pi_hat = softmax((Q_R + omega' log pi) / alpha_hat).

    At temperature 0 the policy is greedy.

    Args:
        q: (N, A) Q_R.
        log_prior: (N, A) log pi.
        scaled_prior_weight: omega' [reward].
        temperature: alpha_hat [reward].
    """
    values = q + scaled_prior_weight * log_prior
    if temperature == 0:
        probability = nn.functional.one_hot(values.argmax(dim=1), values.shape[1]).to(q.dtype)
        return Candidates(q[:, :0], probability, torch.zeros_like(q), log_prior)
    log_policy = torch.log_softmax(values / temperature, dim=1)
    return Candidates(q[:, :0], log_policy.exp(), log_policy, log_prior)


class ResidualDQN:
    """Learns by residual soft DQN on a frozen prior, without a prior by soft DQN (`learner.Agent`).

    At temperature 0 it is DQN.

    Args:
        n_inputs: numbers in an observation.
        n_actions: A, the number of actions.
        n_features: K, the number of features.
        gamma: discount factor.
        temperature: alpha_hat of the policy [reward]; 0 is allowed without a prior only.
        prior: the policy that is customised; None for plain control with the reward theta . f.
        scaled_prior_weight: omega' = omega * alpha [reward].
        input_scale: (n_inputs,) factors of an observation's entries, see `nets.mlp`; None for none.
        config: settings.
        seed: seed of the initial weights and of the batches.

    Raises:
        ValueError: if a number is out of range.
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
        check_number("temperature", temperature, 0, exclusive=prior is not None)
        if temperature > 0:
            check_number("temperature", temperature, float(FLOAT32.tiny), float(FLOAT32.max))
        check_number("scaled_prior_weight", scaled_prior_weight, 0, float(FLOAT32.max))
        self.n_inputs, self.n_actions, self.n_features = n_inputs, n_actions, n_features
        self.gamma, self.temperature = gamma, temperature
        self.prior = prior
        self.scaled_prior_weight = 0.0 if prior is None else scaled_prior_weight
        self.config, self.seed = config or DQNConfig(), seed
        sizes = [n_inputs, *self.config.hidden, n_actions * (n_features + 1)]
        self.net, self.target_net = (mlp(sizes, seed, input_scale) for _ in range(2))
        for net in (self.net, self.target_net):
            zero_last_layer(net)  # Q_R is 0 at first: with alpha_hat = omega' the first policy is the prior
        self.optimiser = self._make_optimiser()
        self.engine = choose_engine(self.config.engine)
        self.replay = Replay(self.config.replay_capacity)
        self.theta: Array = np.zeros(n_features)
        self.updates_done = 0

    def start_from(self, policy: Policy) -> None:
        """Start fine-tuning from another policy: copy its hidden layers, and make its logits the initial h.

        The initial psi is 0: until gradient steps change it, the policy is the given one for every theta.

        Raises:
            ValueError: if it is not the softmax of one `nets.mlp` with this agent's inputs and actions.
        """
        if not isinstance(policy, DiscretePolicy) or policy.prior is not None or policy.temperature == 0:
            raise ValueError(
                "fine-tuning needs a DiscretePolicy without a prior and not at temperature 0, got "
                f"{type(policy).__name__} (prior {getattr(policy, 'prior', None)!r}, "
                f"temperature {getattr(policy, 'temperature', None)})"
            )
        if not is_mlp(policy.net):
            raise ValueError(f"fine-tuning needs a network built like `deep.nets.mlp`, got {policy.net}")
        arrays = mlp_to_arrays(policy.net)
        sizes = arrays["1.weight"].shape[1], len(list(arrays.values())[-1])
        if sizes != (self.n_inputs, self.n_actions):
            raise ValueError(
                f"fine-tuning needs {self.n_inputs} inputs and {self.n_actions} actions, got {sizes}"
            )
        for name in list(arrays)[-2:]:  # weight and bias of the last layer
            heads = np.zeros((self.n_actions, self.n_features + 1, *arrays[name].shape[1:]), np.float32)
            heads[:, -1] = arrays[name] * (self.temperature / policy.divisor)
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
        """Store N transitions, with the prior's log-probabilities at their next states.

        Args:
            state: (N, ...) observations.
            action: (N,) actions.
            features: (N, K) f(s, a).
            next_state: (N, ...) observations after the step, before any reset.
            terminated: (N,) whether the MDP terminated at the step; a truncation does not count.

        Raises:
            ValueError: if the columns do not fit together, or are not finite.
        """
        self.replay.add(
            state=np.asarray(state, dtype=np.float32),
            action=check_indices(action, self.n_actions),
            features=check_array("features", features, shape=(len(state), self.n_features)),
            next_state=np.asarray(next_state, dtype=np.float32),
            terminated=np.asarray(terminated, dtype=bool),
            next_log_prior=bounded_log_prior(self.prior, next_state, self.n_actions),
        )

    def update(self, theta: Array, n_updates: int) -> dict[str, float]:
        """Take gradient steps on psi and h, under the policy for theta (K,).

        Returns:
            loss: mean of `bellman.critic_loss` over the updates;
            q_residual: mean target of Q_R(s, a) in the last batch [reward];
            entropy: mean entropy of pi_hat(. | s') in the last batch [nats].

        Raises:
            ValueError: if theta is malformed, the replay buffer is empty, or training overflows.
        """
        self.theta = check_theta("theta", theta, self.n_features)
        check_number("n_updates", n_updates, 1, integer=True)
        rng = stream(self.seed, "updates", self.updates_done)
        update = import_compiled().update_dqn if self.engine == "jax" else ResidualDQN._update
        metrics = update(self, n_updates, rng)
        self.updates_done += n_updates
        return check_training(metrics)

    def _update(self, n_updates: int, rng: np.random.Generator) -> dict[str, float]:
        weights = self.weights()
        parameters: list[torch.Tensor] = [*self.net.parameters()]
        target_parameters: list[torch.Tensor] = [*self.target_net.parameters()]
        temperature = torch.tensor(self.temperature)
        total = torch.zeros(())
        for _ in range(n_updates):
            batch = self.replay.sample(self.config.batch_size, rng)
            with torch.no_grad():
                next_values = self._heads(self.target_net, batch["next_state"])
                # Double DQN (van Hasselt et al. 2016): a maximum prefers actions that the target network
                # overestimates, so the online network selects the action. With a soft policy, which
                # averages over actions, this brought no gain.
                judge = next_values if self.temperature > 0 else self._heads(self.net, batch["next_state"])
                after = soft_candidates(
                    judge @ weights, batch["next_log_prior"], self.scaled_prior_weight, self.temperature
                )
                stray = stray_bonus(after, self.scaled_prior_weight, temperature)
                target = critic_target(
                    batch["features"], batch["terminated"], next_values, after.probability, stray, self.gamma
                )
            values = self._heads(self.net, batch["state"])
            loss = critic_loss(values[torch.arange(len(target)), batch["action"]], target)
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            with torch.no_grad():
                torch._foreach_lerp_(target_parameters, parameters, self.config.target_rate)
            total += loss.detach()
        return {
            "loss": float(total) / n_updates,
            "q_residual": float((target @ weights).mean()),
            "entropy": float(torch.special.entr(after.probability).sum(dim=1).mean()),
        }

    def policy(self) -> DiscretePolicy:
        """Return a frozen copy of the policy for the last theta; its Q_R is that of the target network."""
        arrays = mlp_to_arrays(self.target_net)
        weights = self.weights().numpy()
        for name in list(arrays)[-2:]:  # weight and bias of the last layer
            heads = arrays[name].reshape(self.n_actions, self.n_features + 1, -1)
            arrays[name] = np.einsum("akh,k->ah", heads, weights).reshape(
                self.n_actions, *arrays[name].shape[1:]
            )
        scale = self.scaled_prior_weight / self.temperature if self.prior is not None else 0.0
        return DiscretePolicy(mlp_from_arrays(arrays), self.temperature, self.prior, scale)

    def explorer(self) -> Policy:
        """Return the policy that collects transitions: the policy itself, made epsilon-greedy if greedy."""
        if self.temperature > 0:
            return self.policy()
        progress = min(self.replay.added / self.config.exploration_steps, 1.0)
        return EpsilonPolicy(
            self.policy(), 1.0 + progress * (self.config.final_epsilon - 1.0), self.n_actions
        )

    def successor_features(self, state: NDArray[Any]) -> Array:
        """Return the target network's successor features psi(s, a) (N, A, K) in states (N, ...)."""
        with torch.no_grad():
            values = self._heads(self.target_net, to_tensor(state))
        return values[..., :-1].numpy().astype(np.float64)

    def score(self, state: NDArray[Any], action: NDArray[np.int64]) -> Array:
        """Return grad_theta log pi_hat(a | s) (N, K) of actions (N,) in states (N, ...).

        It is (psi(s, a) - E_pi_hat[psi(s, .)]) / alpha_hat.

        Book: eq-neural-score.
        """
        centred, _ = self._centred(state)
        return centred[np.arange(len(centred)), action] / self.temperature

    def information(self, state: NDArray[Any]) -> Array:
        """Return the Fisher information (N, K, K) on theta of one action in each of the states (N, ...).

        It is Cov_pi_hat[psi(s, .)] / alpha_hat^2.
        """
        centred, probability = self._centred(state)
        return np.einsum("na,nak,nal->nkl", probability, centred, centred) / self.temperature**2

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that later updates depend on, as named arrays."""
        replay = {"replay." + name: value for name, value in self.replay.arrays().items()}
        return {
            **to_arrays(self.net, "net."),
            **to_arrays(self.target_net, "target_net."),
            **optimiser_to_arrays(self.optimiser, "optimiser."),
            **replay,
            "agent_theta": self.theta,
            "updates_done": np.array(self.updates_done),
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restore what `arrays` returned.

        Raises:
            ValueError: if an array is missing, has another shape or is not finite.
        """
        missing = {"agent_theta", "updates_done"} - set(arrays)
        if missing:
            raise ValueError(f"not the arrays of residual DQN: {', '.join(sorted(missing))} missing")
        self.theta = check_theta("agent_theta", arrays["agent_theta"], self.n_features)
        self.updates_done = int(arrays["updates_done"])
        load_arrays(self.net, arrays, "net.")
        load_arrays(self.target_net, arrays, "target_net.")
        load_optimiser(self.optimiser, arrays, "optimiser.")
        self.replay.restore(with_prefix(arrays, "replay."))

    def _make_optimiser(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.net.parameters(), lr=self.config.learning_rate, fused=True)

    def _heads(self, net: nn.Module, state: torch.Tensor) -> torch.Tensor:
        """Return psi and h (N, A, K + 1) of a network in states (N, ...)."""
        return net(state).view(len(state), self.n_actions, self.n_features + 1)

    def weights(self) -> torch.Tensor:
        """Return (theta, 1) (K + 1,), whose product with (psi, h) is Q_R."""
        return to_tensor(np.append(self.theta, 1.0))

    def _centred(self, state: NDArray[Any]) -> tuple[Array, Array]:
        """Return psi minus its mean under the policy (N, A, K), and the policy's probabilities (N, A)."""
        probability = np.exp(self.policy().log_probs(state))
        psi = self.successor_features(state)
        return psi - np.einsum("na,nak->nk", probability, psi)[:, None, :], probability
