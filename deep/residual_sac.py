"""Residual soft actor-critic: customise a frozen prior over discrete or continuous actions.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), on the residual reward of Li et al.,
"Residual Q-Learning" (NeurIPS 2023). An actor pi_hat maximises, and twin critics estimate,

    V_R(s)    = E_{a ~ pi_hat}[ Q_R(s, a) + omega' log pi(a | s) - alpha_hat log pi_hat(a | s) ]
    Q_R(s, a) = theta . f(s, a) + gamma E_s'[ V_R(s') ],

of which the smaller one counts. As in `residual_dqn`, a critic knows how its values depend on theta: it
learns the successor features psi of pi_hat and the discounted cost h of straying from the prior,
Q_R = psi . theta + h. Without a prior (omega' = 0) this is soft actor-critic.

The expectation over actions is exact where they are discrete (Christodoulou 2019) and one reparametrised draw
where they fill a Box. Both are M candidate actions with probabilities, so that one set of losses serves both.
Densities over a Box are those of the unit action, the action rescaled to [-1, 1]^D.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from deep.bellman import critic_target, smaller_twin, stray_bonus
from deep.gaussian import SquashedGaussianPolicy
from deep.heads import TwinMLP, make_actor
from deep.nets import (
    load_arrays,
    load_optimiser,
    optimiser_to_arrays,
    to_arrays,
    to_tensor,
    with_prefix,
    zero_last_layer,
)
from deep.policies import DiscretePolicy
from deep.replay import Replay
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array, check_number


@dataclass(frozen=True)
class SACConfig:
    """Settings of residual soft actor-critic."""

    hidden: tuple[int, ...] = (64, 64)
    """Units of the hidden layers, of actor and critics alike [units]."""
    learning_rate: float = 1e-3
    """Step size of Adam [1]."""
    batch_size: int = 256
    """Transitions of a gradient update [transitions]."""
    replay_capacity: int = 100_000
    """Transitions that are kept [transitions]."""
    target_rate: float = 0.005
    """Share of the critics that the target critics take over at each update (Polyak averaging) [1]."""
    target_entropy: float | None = None
    """Mean entropy that the temperature is tuned for [nats]; None leaves the temperature as given."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, above=True)
        check_number("batch_size", self.batch_size, 1, whole=True)
        check_number("replay_capacity", self.replay_capacity, 1, whole=True)
        check_number("target_rate", self.target_rate, 0, 1, above=True)
        if self.target_entropy is not None:
            check_number("target_entropy", self.target_entropy, -np.inf)


def critic_loss(values: Tensor, target: Tensor) -> Tensor:
    """Half the squared error of (psi, h), mean over the batch, summed over heads and twins.

    Args:
        values: (2, N, K + 1) at the actions taken.
        target: (N, K + 1).
    """
    return 0.5 / len(target) * (values - target).square().sum()


def actor_loss(q: Tensor, bonus: Tensor, probability: Tensor) -> Tensor:
    """-mean_batch V_R(s) of candidates (N, M), with the smaller of the twins' q (2, N, M).

    Book: eq-residual-actor.
    """
    return -(probability * (q.amin(0) + bonus)).sum(1).mean()


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target_entropy: float) -> Tensor:
    """log alpha_hat * (entropy - target): falls where the policy is more random than it should be."""
    return log_temperature * (entropy - target_entropy)


# --- Agent -----------------------------------------------------------------------------------------------


class ResidualSAC:
    """Residual soft actor-critic on a frozen prior; soft actor-critic without one (`learner.Agent`).

    The first policy is the prior, over discrete actions to the power of omega' / alpha_hat.

    Args:
        n_inputs: numbers in an observation.
        space: of the actions, Discrete(A) or a Box of shape (D,).
        n_features: K.
        gamma: discount factor.
        temperature: alpha_hat [reward]; where the config has a target entropy, only the first.
        prior: the policy that is customised; over a Box a `SquashedGaussianPolicy`. None for none.
        scaled_prior_weight: omega' = omega * alpha [reward].
        config: settings.
        seed: of the initial weights, the batches and the draws.

    Raises:
        ValueError: on malformed numbers, other spaces or a prior that cannot be differentiated.
    """

    def __init__(
        self,
        n_inputs: int,
        space: spaces.Space[Any],
        n_features: int,
        *,
        gamma: float,
        temperature: float,
        prior: Policy | None = None,
        scaled_prior_weight: float = 0.0,
        config: SACConfig | None = None,
        seed: int = 0,
    ) -> None:
        check_number("gamma", gamma, 0, 1)
        check_number("temperature", temperature, 0, above=True)
        check_number("scaled_prior_weight", scaled_prior_weight, 0)
        self.n_inputs, self.n_features, self.gamma, self.seed = n_inputs, n_features, gamma, seed
        self.scaled_prior_weight = scaled_prior_weight if prior is not None else 0.0
        self.config = config or SACConfig()
        self.actor = make_actor(
            n_inputs, space, self.config.hidden, prior, self.scaled_prior_weight / temperature, seed
        )
        inputs, outputs = self.actor.critic_sizes
        self.critics = TwinMLP([inputs, *self.config.hidden, outputs * (n_features + 1)], seed + 1)
        zero_last_layer(self.critics)  # Q_R = 0
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self._slow = [parameter.detach() for parameter in self.target_critics.parameters()]
        self._fast = [parameter.detach() for parameter in self.critics.parameters()]
        self.log_temperature = torch.tensor(math.log(temperature), requires_grad=True)
        rate = self.config.learning_rate
        # One optimiser for three losses, since Adam treats each number on its own.
        parameters = [*self.critics.parameters(), *self.actor.net.parameters(), self.log_temperature]
        self.optimiser = torch.optim.Adam(parameters, lr=rate, fused=True)
        self.replay = Replay(self.config.replay_capacity)
        self.theta: Array = np.zeros(n_features)
        self.updates_done = 0

    @property
    def temperature(self) -> float:
        """alpha_hat [reward]."""
        return float(self.log_temperature.detach().exp())

    def add(
        self,
        state: NDArray[Any],
        action: NDArray[Any],
        features: Array,
        next_state: NDArray[Any],
        terminated: NDArray[np.bool_],
    ) -> None:
        """Store N transitions.

        Args:
            state: (N, ...) observations.
            action: (N,) discrete actions, or (N, D) of the Box.
            features: (N, K) f(s, a).
            next_state: (N, ...) observations that followed; after a cut, the one before the reset.
            terminated: (N,) whether the episode ended there in the MDP; a time limit does not count.

        Raises:
            ValueError: if the columns do not fit together, or are not finite.
        """
        n = len(state)
        flat, next_flat = (
            check_array(name, np.reshape(value, (n, -1)), shape=(n, self.n_inputs))
            for name, value in (("state", state), ("next_state", next_state))
        )
        self.replay.add(
            state=flat,
            action=self.actor.encode(action),
            features=check_array("features", features, shape=(n, self.n_features)),
            next_state=next_flat,
            terminated=np.asarray(terminated, dtype=bool),
            **self.actor.stored(state, next_state),
        )

    def update(self, theta: Array, n_updates: int) -> dict[str, float]:
        """Take gradient steps for the reward theta . f on critics, actor and, where it is tuned, temperature.

        Returns:
            Of the last step, critic_loss and actor_loss: as the functions of these names;
            q_residual: mean_batch r_R + gamma V_R(s'), the target of Q_R(s, a) [reward];
            entropy: mean_batch E_pi_hat[-log pi_hat(a | s)] [nats];
            temperature: alpha_hat [reward].

        Raises:
            ValueError: if theta is malformed, or the replay is empty.
        """
        self.theta = check_array("theta", theta, shape=(self.n_features,))
        check_number("n_updates", n_updates, 1, whole=True)
        rng = np.random.default_rng([self.seed, self.updates_done])
        for _ in range(n_updates):
            metrics = self._update_once(rng)
        self.updates_done += n_updates
        return {name: float(value) for name, value in metrics.items()}

    def _update_once(self, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = self.replay.sample(self.config.batch_size, rng)
        state, next_state = batch["state"], batch["next_state"]
        weights, temperature = self._weights(), self.log_temperature.detach().exp()
        nothing = state[:, :0]  # stands for a prior's log-probabilities that the replay does not hold

        with torch.no_grad():
            after = self.actor.propose(next_state, batch.get("next_log_prior", nothing), rng)
            next_values = smaller_twin(
                self.actor.values(self.target_critics, next_state, after.action), weights
            )
            bonus = stray_bonus(after, self.scaled_prior_weight, temperature)
            target = critic_target(
                batch["features"], batch["terminated"], next_values, after.probability, bonus, self.gamma
            )
        of_critics = critic_loss(self.actor.values_taken(self.critics, state, batch["action"]), target)

        now = self.actor.propose(state, batch.get("log_prior", nothing), rng)
        q = self.actor.values(self.critics, state, now.action) @ weights
        of_actor = actor_loss(q, stray_bonus(now, self.scaled_prior_weight, temperature), now.probability)
        entropy = -(now.probability * now.log_policy).detach().sum(1).mean()

        # The actor's loss reaches through the critics, but gives them no gradient.
        critics, actor = list(self.critics.parameters()), list(self.actor.net.parameters())
        gradients = torch.autograd.grad(of_critics, critics) + torch.autograd.grad(of_actor, actor)
        for parameter, gradient in zip(critics + actor, gradients, strict=True):
            parameter.grad = gradient
        if self.config.target_entropy is not None:
            of_temperature = temperature_loss(self.log_temperature, entropy, self.config.target_entropy)
            (self.log_temperature.grad,) = torch.autograd.grad(of_temperature, self.log_temperature)
        self.optimiser.step()
        torch._foreach_lerp_(self._slow, self._fast, self.config.target_rate)
        return {
            "critic_loss": of_critics.detach(),
            "actor_loss": of_actor.detach(),
            "q_residual": (target @ weights).mean(),
            "entropy": entropy,
            "temperature": temperature,
        }

    def policy(self) -> DiscretePolicy | SquashedGaussianPolicy:
        """The policy, frozen: later updates do not change it."""
        return self.actor.policy()

    def explorer(self) -> Policy:
        """The policy to collect transitions with: the policy itself."""
        return self.policy()

    def successor_features(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """psi(s, a) (N, K) of the policy for actions (N, ...) in states (N, ...); mean of the two critics."""
        inputs = to_tensor(np.reshape(state, (len(state), -1)))
        with torch.no_grad():
            values = self.actor.values_taken(
                self.target_critics, inputs, torch.as_tensor(self.actor.encode(action))
            )
        return values.mean(0)[:, :-1].numpy().astype(np.float64)

    def score(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """grad_theta log pi_hat(a | s) (N, K) = (psi(s, a) - E_pi_hat[psi(s, .)]) / alpha_hat.

        Book: eq-neural-score.
        """
        mean, _, _ = self._psi_of_draws(state)
        return (self.successor_features(state, action) - mean) / self.temperature

    def information(self, state: NDArray[Any]) -> Array:
        """Fisher information on theta (N, K, K) of an action in each state, Cov_pi_hat[psi] / alpha_hat^2."""
        mean, psi, probability = self._psi_of_draws(state)
        centred = psi - mean[:, None, :]
        return np.einsum("nm,nmk,nml->nkl", probability, centred, centred) / self.temperature**2

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that later updates depend on, as named arrays."""
        return {
            **to_arrays(self.actor.net, "actor."),
            **to_arrays(self.critics, "critics."),
            **to_arrays(self.target_critics, "target_critics."),
            **optimiser_to_arrays(self.optimiser, "optimiser."),
            **{"replay." + name: value for name, value in self.replay.state().items()},
            "log_temperature": self.log_temperature.detach().numpy().copy(),
            "agent_theta": self.theta,
            "updates_done": np.array(self.updates_done),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what `state` returned.

        Raises:
            ValueError: if arrays are missing, of another shape or not finite.
        """
        missing = {"log_temperature", "agent_theta", "updates_done", "replay.added"} - set(state)
        if missing:
            raise ValueError(f"no state of residual SAC: {', '.join(sorted(missing))} missing")
        load_arrays(self.actor.net, state, "actor.")
        load_arrays(self.critics, state, "critics.")
        load_arrays(self.target_critics, state, "target_critics.")
        load_optimiser(self.optimiser, state, "optimiser.")
        self.replay.restore(with_prefix(state, "replay."))
        log_temperature = check_array("log_temperature", state["log_temperature"], shape=())
        with torch.no_grad():
            self.log_temperature.fill_(float(log_temperature))
        self.theta = check_array("agent_theta", state["agent_theta"], shape=(self.n_features,))
        self.updates_done = int(state["updates_done"])

    def _weights(self) -> Tensor:
        """What makes Q_R of psi and h: (theta, 1)."""
        return torch.as_tensor(np.append(self.theta, 1.0), dtype=torch.float32)

    def _psi_of_draws(self, state: NDArray[Any]) -> tuple[Array, Array, Array]:
        """E_pi_hat[psi(s, .)] (N, K), and the psi (N, M, K) and weights (N, M) that it is the mean of."""
        rng = np.random.default_rng([self.seed, self.updates_done])
        action, probability = self.actor.draw(state, rng)
        n, m = probability.shape
        psi = self.successor_features(np.repeat(state, m, axis=0), action.reshape(n * m, *action.shape[2:]))
        psi = psi.reshape(n, m, -1)
        return np.einsum("nm,nmk->nk", probability, psi), psi, probability
