"""Residual soft actor-critic: customise a frozen prior over discrete or continuous actions.

This is soft actor-critic (Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018) on the
residual reward of Li et al., "Residual Q-Learning" (NeurIPS 2023). The actor pi_hat maximises V_R, and twin
critics estimate Q_R:

    V_R(s)    = E_{a ~ pi_hat}[ Q_R(s, a) + omega' log pi(a | s) - alpha_hat log pi_hat(a | s) ]
    Q_R(s, a) = theta . f(s, a) + gamma E_s'[ V_R(s') ],

With a prior the mean of the twins' values is used, without one the smaller of them. The smaller one guards
against the optimism of a maximum over noise; but it falls where the twins disagree, and so makes the policy
narrower than Q_R does. A prior already holds the policy where the critics know something.

As in `residual_dqn`, a critic also learns how its values depend on theta: Q_R = psi . theta + h, with the
successor features psi of pi_hat and the discounted sum h of later stray bonuses. With no prior (None)
this is soft actor-critic.

The expectation over actions is exact if actions are discrete (Christodoulou 2019), and estimated from one
reparametrised draw if they form a Box. In both cases it runs over M candidate actions with probabilities, so
that the same losses serve both. Densities over a Box are those of the unit action, which is the action
rescaled to [-1, 1]^D.
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

from deep.bellman import (
    FLOAT32,
    check_theta,
    check_training,
    critic_loss,
    critic_target,
    join_twins,
    stray_bonus,
)
from deep.engines import Engine, check_engine, choose_engine, import_compiled
from deep.gaussian import SquashedGaussianPolicy
from deep.heads import TwinMLP, make_actor
from deep.nets import (
    check_hidden,
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
from deep.streams import stream
from mereq_min.interfaces import Policy
from mereq_min.validation import Array, check_array, check_number


@dataclass(frozen=True)
class SACConfig:
    """Settings of residual soft actor-critic."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of actor and critics [units]."""
    learning_rate: float = 1e-3
    """Step size of Adam [1]."""
    batch_size: int = 256
    """Transitions in a gradient update [transitions]."""
    replay_capacity: int = 100_000
    """Transitions in the replay buffer [transitions]."""
    target_rate: float = 0.005
    """Polyak coefficient (tau) of the target critics, which move at each update [1]."""
    target_entropy: float | None = None
    """Mean entropy to which the temperature is tuned, over a Box that of unit actions [nats]; None keeps the
    temperature fixed."""
    engine: Engine | None = None
    """Library that computes the updates, see `engines.choose_engine`."""

    def __post_init__(self) -> None:
        check_engine(self.engine)
        check_hidden(self.hidden)
        check_number("learning_rate", self.learning_rate, 0, exclusive=True)
        check_number("batch_size", self.batch_size, 1, integer=True)
        check_number("replay_capacity", self.replay_capacity, 1, integer=True)
        check_number("target_rate", self.target_rate, 0, 1, exclusive=True)
        if self.target_entropy is not None:
            check_number("target_entropy", self.target_entropy, -np.inf)


def actor_loss(q: Tensor, stray: Tensor, probability: Tensor) -> Tensor:
    """Return minus the batch mean of V_R(s).

    Book: eq-residual-actor.

    Args:
        q: (N, M) Q_R of the candidates [reward].
        stray: (N,) their `stray_bonus` [reward].
        probability: (N, M) weights of the candidates.
    """
    return -((probability * q).sum(1) + stray).mean()


def temperature_loss(log_temperature: Tensor, entropy: Tensor, target_entropy: float) -> Tensor:
    """Return log alpha_hat * (entropy - target); a step on it lowers alpha_hat if entropy is above target."""
    return log_temperature * (entropy - target_entropy)


# --- Agent -----------------------------------------------------------------------------------------------


class ResidualSAC:
    """Learns by residual soft actor-critic on a frozen prior, without one by soft actor-critic.

    It is a `learner.Agent`. Over a Box the first policy is the prior. Over discrete actions it is the prior
    to the power of omega' / alpha_hat, normalised.

    Args:
        n_inputs: numbers in an observation.
        space: space of the actions, Discrete(A) or a Box of shape (D,).
        n_features: K, the number of features.
        gamma: discount factor.
        temperature: alpha_hat [reward]; if the config has a target entropy, its initial value.
        prior: the policy that is customised, over a Box a `SquashedGaussianPolicy`; None for none.
        scaled_prior_weight: omega' = omega * alpha [reward]. At 0, a prior over a Box only initialises the
            actor; the twins are still averaged.
        input_scale: (n_inputs,) factors of an observation's entries, None for none. An actor that starts as
            a copy of the prior keeps the prior's factors.
        config: settings.
        seed: seed of the initial weights, the batches and the draws.

    Raises:
        ValueError: if a number is out of range, the space is another one, or the prior's log-density cannot
            be differentiated.
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
        input_scale: NDArray[Any] | None = None,
        config: SACConfig | None = None,
        seed: int = 0,
    ) -> None:
        check_number("gamma", gamma, 0, 1)
        check_number("temperature", temperature, 0, exclusive=True)
        check_number("temperature", temperature, float(FLOAT32.tiny), float(FLOAT32.max))
        check_number("scaled_prior_weight", scaled_prior_weight, 0, float(FLOAT32.max))
        self.n_inputs, self.n_features, self.gamma, self.seed = n_inputs, n_features, gamma, seed
        self.scaled_prior_weight = scaled_prior_weight if prior is not None else 0.0
        self.config, self.pessimistic = config or SACConfig(), prior is None
        self.actor = make_actor(
            n_inputs,
            space,
            self.config.hidden,
            prior,
            self.scaled_prior_weight / temperature,
            seed,
            input_scale,
        )
        inputs, outputs = self.actor.critic_sizes
        # A critic's inputs after the observation are unit actions, which need no scaling.
        scale = None if input_scale is None else np.append(input_scale, np.ones(inputs - n_inputs))
        sizes = [inputs, *self.config.hidden, outputs * (n_features + 1)]
        self.critics = TwinMLP(sizes, seed + 1, scale)
        zero_last_layer(self.critics)  # Q_R is 0 at first
        self.target_critics = copy.deepcopy(self.critics).requires_grad_(False)
        self._slow = [parameter.detach() for parameter in self.target_critics.parameters()]
        self._fast = [parameter.detach() for parameter in self.critics.parameters()]
        self.log_temperature = torch.tensor(math.log(temperature), requires_grad=True)
        rate = self.config.learning_rate
        # One optimiser serves all three losses, because Adam treats each parameter separately.
        parameters = [*self.critics.parameters(), *self.actor.net.parameters(), self.log_temperature]
        self.optimiser = torch.optim.Adam(parameters, lr=rate, fused=True)
        self.engine = choose_engine(self.config.engine, self.actor.networks)
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
            action: (N,) discrete actions, or (N, D) actions of the Box.
            features: (N, K) f(s, a).
            next_state: (N, ...) observations after the step, before any reset.
            terminated: (N,) whether the MDP terminated at the step; a truncation does not count.

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
        """Take gradient steps on critics, actor and, if it is tuned, temperature, for the reward theta . f.

        Returns:
            Metrics of the last step:
            critic_loss: see `bellman.critic_loss`;
            actor_loss: see `actor_loss` [reward];
            q_residual: batch mean of r_R + gamma V_R(s'), the target of Q_R(s, a) [reward];
            entropy: batch mean of E_pi_hat[-log pi_hat(a | s)] [nats];
            temperature: alpha_hat [reward].

        Raises:
            ValueError: if theta is malformed, the replay buffer is empty, or training overflows.
        """
        self.theta = check_theta("theta", theta, self.n_features)
        check_number("n_updates", n_updates, 1, integer=True)
        rng = stream(self.seed, "updates", self.updates_done)
        if self.engine == "jax":
            metrics = import_compiled().update_sac(self, n_updates, rng)
        else:
            for _ in range(n_updates):
                metrics = self._update_once(rng)
        self.updates_done += n_updates
        return check_training({name: float(value) for name, value in metrics.items()})

    def _update_once(self, rng: np.random.Generator) -> dict[str, Tensor]:
        batch = self.replay.sample(self.config.batch_size, rng)
        state, next_state = batch["state"], batch["next_state"]
        weights, temperature = self.weights(), self.log_temperature.detach().exp()
        nothing = state[:, :0]  # stands in for log-probabilities of the prior that the replay does not hold

        with torch.no_grad():
            after = self.actor.propose(next_state, batch.get("next_log_prior", nothing), rng)
            values = self.actor.values(self.target_critics, next_state, after.action)
            next_values = join_twins(values, weights, self.pessimistic)
            stray = stray_bonus(after, self.scaled_prior_weight, temperature)
            target = critic_target(
                batch["features"], batch["terminated"], next_values, after.probability, stray, self.gamma
            )
        of_critics = critic_loss(self.actor.values_taken(self.critics, state, batch["action"]), target)

        now = self.actor.propose(state, batch.get("log_prior", nothing), rng)
        q = (
            join_twins(self.actor.values(self.critics, state, now.action), weights, self.pessimistic)
            @ weights
        )
        of_actor = actor_loss(q, stray_bonus(now, self.scaled_prior_weight, temperature), now.probability)
        entropy = -(now.probability * now.log_policy).detach().sum(1).mean()

        # The actor's loss is differentiated through the critics, but must not change them.
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
        """A frozen copy of the policy: later updates do not change it."""
        policy = self.actor.policy()
        if isinstance(policy, SquashedGaussianPolicy):
            policy.temperature = self.temperature
        return policy

    def explorer(self) -> Policy:
        """Return the policy that collects transitions: the policy itself."""
        return self.policy()

    def successor_features(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return the successor features psi(s, a) (N, K) of actions (N, ...) in states (N, ...).

        They are the mean of the two target critics.
        """
        inputs = to_tensor(np.reshape(state, (len(state), -1)))
        with torch.no_grad():
            values = self.actor.values_taken(
                self.target_critics, inputs, torch.as_tensor(self.actor.encode(action))
            )
        return values.mean(0)[:, :-1].numpy().astype(np.float64)

    def score(self, state: NDArray[Any], action: NDArray[Any]) -> Array:
        """Return grad_theta log pi_hat(a | s) (N, K) of actions (N, ...) in states (N, ...).

        It is (psi(s, a) - E_pi_hat[psi(s, .)]) / alpha_hat; over a Box, the mean is over `heads.DRAWS` draws.

        Book: eq-neural-score.
        """
        mean, _, _ = self._psi_of_draws(state)
        return (self.successor_features(state, action) - mean) / self.temperature

    def information(self, state: NDArray[Any]) -> Array:
        """Return the Fisher information (N, K, K) on theta of one action in each of the states (N, ...).

        It is Cov_pi_hat[psi(s, .)] / alpha_hat^2; over a Box, it is estimated from `heads.DRAWS` draws.
        """
        mean, psi, probability = self._psi_of_draws(state)
        centred = psi - mean[:, None, :]
        return np.einsum("nm,nmk,nml->nkl", probability, centred, centred) / self.temperature**2

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything that later updates depend on, as named arrays."""
        return {
            **to_arrays(self.actor.net, "actor."),
            **to_arrays(self.critics, "critics."),
            **to_arrays(self.target_critics, "target_critics."),
            **optimiser_to_arrays(self.optimiser, "optimiser."),
            **{"replay." + name: value for name, value in self.replay.arrays().items()},
            "log_temperature": self.log_temperature.detach().numpy().copy(),
            "agent_theta": self.theta,
            "updates_done": np.array(self.updates_done),
        }

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Restore what `arrays` returned.

        Raises:
            ValueError: if an array is missing, has another shape or is not finite.
        """
        missing = {"log_temperature", "agent_theta", "updates_done", "replay.added"} - set(arrays)
        if missing:
            raise ValueError(f"not the arrays of residual SAC: {', '.join(sorted(missing))} missing")
        load_arrays(self.actor.net, arrays, "actor.")
        load_arrays(self.critics, arrays, "critics.")
        load_arrays(self.target_critics, arrays, "target_critics.")
        load_optimiser(self.optimiser, arrays, "optimiser.")
        self.replay.restore(with_prefix(arrays, "replay."))
        log_temperature = check_array("log_temperature", arrays["log_temperature"], shape=())
        with torch.no_grad():
            self.log_temperature.fill_(float(log_temperature))
        self.theta = check_theta("agent_theta", arrays["agent_theta"], self.n_features)
        self.updates_done = int(arrays["updates_done"])

    def weights(self) -> Tensor:
        """Return (theta, 1) (K + 1,), whose product with (psi, h) is Q_R."""
        return to_tensor(np.append(self.theta, 1.0))

    def _psi_of_draws(self, state: NDArray[Any]) -> tuple[Array, Array, Array]:
        """Return E_pi_hat[psi(s, .)] (N, K), and the psi (N, M, K) and weights (N, M) that it averages."""
        rng = stream(self.seed, "draws", self.updates_done)
        action, probability = self.actor.draw(state, rng)
        n, m = probability.shape
        psi = self.successor_features(np.repeat(state, m, axis=0), action.reshape(n * m, *action.shape[2:]))
        psi = psi.reshape(n, m, -1)
        return np.einsum("nm,nmk->nk", probability, psi), psi, probability
