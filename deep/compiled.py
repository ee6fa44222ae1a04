"""The updates of residual SAC and residual soft DQN, compiled with JAX.

They are the same updates as in `residual_sac` and `residual_dqn`, which explain them; functions have the
names of their torch counterparts there and in `bellman`, `heads`, `gaussian` and `nets`. A call computes all
updates of `Agent.update` in one compiled loop. Before it, batches and noise are drawn as in torch; after it,
the new numbers are in the agent's torch networks and optimiser, so that nothing else depends on the engine.

Import this module by `engines.import_compiled`, which sets JAX up.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array
from torch import Tensor, nn

from deep.bellman import MIN_LOG_PROB
from deep.gaussian import LOG_STD_BOUNDS
from deep.heads import GaussianActor
from deep.nets import find_activation
from deep.replay import Replay

ACTIVATIONS: tuple[Callable[[Array], Array], ...] = (
    jax.nn.relu, jnp.tanh, jax.nn.elu, partial(jax.nn.gelu, approximate=False), jax.nn.leaky_relu,
    jax.nn.silu, jax.nn.sigmoid,
)  # fmt: skip
"""Those of `nets.ACTIVATIONS`, in the same order."""

Layers = list[tuple[Any, Any]]
"""Weights and biases of the linear layers, shaped as in torch."""
Batch = dict[str, Array]
"""Columns of transitions (N, ...) by name."""


@partial(jax.tree_util.register_dataclass, data_fields=["scale"], meta_fields=["activation"])
@dataclass(frozen=True)
class Form:
    """Activation and input scale of a perceptron: all that is not in its layers."""

    activation: int
    """Index in `ACTIVATIONS`."""
    scale: Any
    """(n,) factors of the inputs."""


# --- Networks --------------------------------------------------------------------------------------------


def perceptron(form: Form, layers: Layers, x: Array) -> Array:
    """Return the outputs (N, sizes[-1]) of a `nets.mlp` for inputs (N, sizes[0])."""
    x = x * form.scale
    for weight, bias in layers[:-1]:
        x = ACTIVATIONS[form.activation](x @ weight.T + bias)
    weight, bias = layers[-1]
    return x @ weight.T + bias


def twins(scale: Array, layers: Layers, x: Array) -> Array:
    """Return the outputs (2, N, sizes[-1]) of a `heads.TwinMLP` for inputs (N, sizes[0])."""
    x = jnp.broadcast_to(x * scale, (2, *x.shape))
    for weight, bias in layers[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


# --- Bellman equation ------------------------------------------------------------------------------------


class Candidates(NamedTuple):
    """M candidate actions in each of N states, see `bellman.Candidates`."""

    action: Array
    """(N, D) unit actions of a Box; empty (N, 0) if the candidates are all A discrete actions."""
    probability: Array
    """(N, M) their weights."""
    log_policy: Array
    """(N, M) log pi_hat."""
    log_prior: Array
    """(N, M) log pi."""


def stray_bonus(candidates: Candidates, scaled_prior_weight: Array, temperature: Array | float) -> Array:
    """Return E_pi_hat[omega' log pi - alpha_hat log pi_hat] in each state (N,). Book: eq-stray."""
    log_policy = jnp.maximum(candidates.log_policy, MIN_LOG_PROB)
    bonus = scaled_prior_weight * candidates.log_prior - temperature * log_policy
    return (candidates.probability * bonus).sum(1)


def join_twins(values: Array, weights: Array, pessimistic: bool) -> Array:
    """Return psi and h (N, M, K + 1) that twin critics stand for, see `bellman.join_twins`."""
    if not pessimistic:
        return values.mean(0)
    q = values @ weights
    return jnp.where((q[0] <= q[1])[..., None], values[0], values[1])


def critic_target(batch: Batch, next_values: Array, probability: Array, stray: Array, gamma: Array) -> Array:
    """Return the Bellman targets (N, K + 1) of psi and h. Book: eq-critic-targets."""
    onward = (probability[..., None] * next_values).sum(1).at[:, -1].add(stray)
    return jnp.pad(batch["features"], ((0, 0), (0, 1))) + gamma * ~batch["terminated"][:, None] * onward


def critic_loss(values: Array, target: Array) -> Array:
    """Return half the squared error of psi and h, averaged over the batch, summed over outputs and twins."""
    return 0.5 / len(target) * jnp.square(values - target).sum()


# --- Optimiser -------------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """State of the optimisation that updates change. Trees have the structure of `parameters`."""

    parameters: Any
    """Networks by name, and the logarithm of the temperature if it is tuned."""
    first: Any
    """Adam's mean of the gradients."""
    second: Any
    """Adam's mean of their squares."""
    step: Any
    """Steps of Adam so far."""
    target: Layers
    """The target network, a Polyak average."""


def advance(progress: Progress, gradients: Any, online: str, rate: Array, target_rate: Array) -> Progress:
    """Take a step of Adam (Kingma and Ba 2015), then move the target towards the network called `online`."""
    step = progress.step + 1
    first = jax.tree.map(lambda m, g: m + 0.1 * (g - m), progress.first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, progress.second, gradients)
    # expm1, because 1 - 0.999^step would lose digits in single precision.
    to_first, to_second = (-jnp.expm1(step * math.log(beta)) for beta in (0.9, 0.999))
    parameters = jax.tree.map(
        lambda p, m, v: p - rate / to_first * m / (jnp.sqrt(v) / jnp.sqrt(to_second) + 1e-8),
        progress.parameters,
        first,
        second,
    )
    target = jax.tree.map(lambda t, p: t + target_rate * (p - t), progress.target, parameters[online])
    return Progress(parameters, first, second, step, target)


# --- Residual SAC ----------------------------------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SAC:
    """Constants of an update of residual SAC."""

    actor: Form
    """Of the actor's network."""
    critic_scale: Any
    """(n,) factors of the critics' inputs."""
    prior: tuple[Form, Layers] | None
    """The prior's network, if actions form a Box."""
    prior_scale: Any
    """omega' / alpha_hat in the policy, None over a Box."""
    weights: Any
    """(K + 1,) theta, and 1 for h."""
    gamma: Any
    """Discount factor."""
    scaled_prior_weight: Any
    """omega' [reward]."""
    pessimistic: bool = field(metadata={"static": True})
    """Whether the smaller of the twins' values counts; each case is compiled on its own."""
    log_temperature: Any
    """log alpha_hat, None if it is tuned."""
    target_entropy: Any
    """Mean entropy to which the temperature is tuned, None if it is not [nats]."""
    rate: Any
    """Step size of Adam."""
    target_rate: Any
    """Step size of the target's Polyak averaging."""


def propose(setting: SAC, layers: Layers, state: Array, log_prior: Array | None, noise: Array) -> Candidates:
    """Return the actor's candidates: all actions if they are discrete, otherwise one draw."""
    output = perceptron(setting.actor, layers, state)
    if log_prior is not None:
        log_policy = jax.nn.log_softmax(output + setting.prior_scale * log_prior, axis=1)
        return Candidates(state[:, :0], jnp.exp(log_policy), log_policy, log_prior)
    mean, log_std = split_head(output)
    latent = mean + jnp.exp(log_std) * noise
    log_det = log_jacobian(latent)
    standard = -0.5 * (noise**2 + math.log(2 * math.pi)).sum(1)
    log_policy = standard - log_std.sum(1) - log_det
    log_prior = jnp.zeros(len(state))
    if setting.prior is not None:
        log_prior = normal_log_density(*split_head(perceptron(*setting.prior, state)), latent) - log_det
    return Candidates(jnp.tanh(latent), jnp.ones((len(state), 1)), log_policy[:, None], log_prior[:, None])


def split_head(output: Array) -> tuple[Array, Array]:
    """Split a network's output (N, 2 D) into mean and bounded log standard deviation, each (N, D)."""
    mean, log_std = jnp.split(output, 2, axis=1)
    return mean, jnp.clip(log_std, *LOG_STD_BOUNDS)


def normal_log_density(mean: Array, log_std: Array, latent: Array) -> Array:
    """Return log N(u; mean, std) of latents (N, D), summed over D: (N,)."""
    z = (latent - mean) * jnp.exp(-log_std)
    return -(0.5 * z * z + log_std).sum(1) - 0.5 * math.log(2 * math.pi) * mean.shape[1]


def log_jacobian(latent: Array) -> Array:
    """Return log |d tanh(u) / du| of latents (N, D), summed over D: (N,)."""
    return 2.0 * (math.log(2.0) * latent.shape[1] - (latent + jax.nn.softplus(-2.0 * latent)).sum(1))


def critic_values(setting: SAC, layers: Layers, state: Array, action: Array, n_candidates: int) -> Array:
    """Return both critics' psi and h (2, N, M, K + 1) of M candidates; unit actions of a Box are inputs."""
    values = twins(setting.critic_scale, layers, jnp.concatenate((state, action), axis=1))
    return values.reshape(2, len(state), n_candidates, -1)


def values_taken(setting: SAC, layers: Layers, state: Array, action: Array, n_candidates: int) -> Array:
    """Return both critics' psi and h (2, N, K + 1) of the actions taken."""
    if action.ndim == 2:
        return critic_values(setting, layers, state, action, 1)[:, :, 0]
    values = critic_values(setting, layers, state, state[:, :0], n_candidates)
    return values[:, jnp.arange(len(state)), action]


def sac_update(setting: SAC, progress: Progress, batch: Batch) -> tuple[Progress, dict[str, Array]]:
    """Take one update of `ResidualSAC`, and return its metrics."""
    state, next_state, weights = batch["state"], batch["next_state"], setting.weights
    actor, critics = progress.parameters["actor"], progress.parameters["critics"]
    temperature = jnp.exp(progress.parameters.get("log_temperature", setting.log_temperature))

    after = propose(setting, actor, next_state, batch.get("next_log_prior"), batch["noise"][0])
    n_candidates = after.probability.shape[1]
    next_values = critic_values(setting, progress.target, next_state, after.action, n_candidates)
    stray = stray_bonus(after, setting.scaled_prior_weight, temperature)
    joined = join_twins(next_values, weights, setting.pessimistic)
    target = critic_target(batch, joined, after.probability, stray, setting.gamma)

    def of_critics(critics: Layers) -> Array:
        return critic_loss(values_taken(setting, critics, state, batch["action"], n_candidates), target)

    def of_actor(actor: Layers) -> tuple[Array, Array]:
        """Book: eq-residual-actor."""
        now = propose(setting, actor, state, batch.get("log_prior"), batch["noise"][1])
        values = critic_values(setting, critics, state, now.action, n_candidates)
        q = join_twins(values, weights, setting.pessimistic) @ weights
        stray = stray_bonus(now, setting.scaled_prior_weight, temperature)
        entropy = -(now.probability * now.log_policy).sum(1).mean()
        return -((now.probability * q).sum(1) + stray).mean(), entropy

    critic_error, critic_gradient = jax.value_and_grad(of_critics)(critics)
    (actor_error, entropy), actor_gradient = jax.value_and_grad(of_actor, has_aux=True)(actor)
    gradients = {"critics": critic_gradient, "actor": actor_gradient}
    if setting.target_entropy is not None:
        gradients["log_temperature"] = entropy - setting.target_entropy  # of `residual_sac.temperature_loss`
    metrics = {
        "critic_loss": critic_error,
        "actor_loss": actor_error,
        "q_residual": (target @ weights).mean(),
        "entropy": entropy,
        "temperature": temperature,
    }
    return advance(progress, gradients, "critics", setting.rate, setting.target_rate), metrics


@jax.jit
def sac_updates(setting: SAC, progress: Progress, batches: Batch) -> tuple[Progress, dict[str, Array]]:
    """Take one update for each of the batches (n, ...), and return the metrics (n,) of all."""
    return jax.lax.scan(partial(sac_update, setting), progress, batches)


def update_sac(agent: Any, n_updates: int, rng: np.random.Generator) -> dict[str, float]:
    """Take the gradient steps of `ResidualSAC.update` with that agent, and return the last one's metrics."""
    actor, tuned = agent.actor, agent.config.target_entropy is not None
    in_box = actor if isinstance(actor, GaussianActor) else None
    shape = (2, agent.config.batch_size, 0 if in_box is None else len(in_box.low))
    rows, noise = [], []
    for _ in range(n_updates):
        rows.append(agent.replay.draw(agent.config.batch_size, rng))
        noise.append(rng.standard_normal(shape, np.float32))
    batches = {**gather(agent.replay, rows), "noise": np.array(noise)}
    parameters: dict[str, Any] = {"critics": pairs(agent.critics), "actor": pairs(actor.net)}
    if tuned:
        parameters["log_temperature"] = agent.log_temperature
    prior = None if in_box is None or in_box.prior is None else in_box.prior.net
    setting = SAC(
        actor=form(actor.net),
        critic_scale=scale_of(agent.critics),
        prior=None if prior is None else (form(prior), to_numpy(pairs(prior))),
        prior_scale=None if isinstance(actor, GaussianActor) else np.float32(actor.prior_scale),
        weights=agent.weights().numpy(),
        gamma=np.float32(agent.gamma),
        scaled_prior_weight=np.float32(agent.scaled_prior_weight),
        pessimistic=agent.pessimistic,
        log_temperature=None if tuned else agent.log_temperature.detach().numpy(),
        target_entropy=agent.config.target_entropy,
        rate=np.float32(agent.optimiser.param_groups[0]["lr"]),
        target_rate=np.float32(agent.config.target_rate),
    )
    updates = partial(sac_updates, setting)
    metrics = run(updates, parameters, agent.optimiser, pairs(agent.target_critics), batches)
    return {name: float(values[-1]) for name, values in metrics.items()}


# --- Residual soft DQN -----------------------------------------------------------------------------------


class DQN(NamedTuple):
    """Constants of an update of residual soft DQN."""

    net: Form
    """Of both networks."""
    weights: Any
    """(K + 1,) theta, and 1 for h."""
    gamma: Any
    """Discount factor."""
    scaled_prior_weight: Any
    """omega' [reward]."""
    temperature: Any
    """alpha_hat; None for a greedy policy."""
    rate: Any
    """Step size of Adam."""
    target_rate: Any
    """Step size of the target's Polyak averaging."""


def heads(setting: DQN, layers: Layers, state: Array) -> Array:
    """Return psi and h (N, A, K + 1) of a network in states (N, ...)."""
    return perceptron(setting.net, layers, state).reshape(len(state), -1, len(setting.weights))


def soft_candidates(setting: DQN, q: Array, log_prior: Array) -> Candidates:
    """Return all actions with probabilities pi_hat = softmax((Q_R + omega' log pi) / alpha_hat)."""
    values = q + setting.scaled_prior_weight * log_prior
    if setting.temperature is None:
        probability = jax.nn.one_hot(values.argmax(1), values.shape[1])
        return Candidates(q[:, :0], probability, jnp.zeros_like(q), log_prior)
    log_policy = jax.nn.log_softmax(values / setting.temperature, axis=1)
    return Candidates(q[:, :0], jnp.exp(log_policy), log_policy, log_prior)


def dqn_update(setting: DQN, progress: Progress, batch: Batch) -> tuple[Progress, dict[str, Array]]:
    """Take one update of `ResidualDQN`, and return its metrics."""
    net, greedy = progress.parameters["net"], setting.temperature is None
    next_values = heads(setting, progress.target, batch["next_state"])
    judge = heads(setting, net, batch["next_state"]) if greedy else next_values
    after = soft_candidates(setting, judge @ setting.weights, batch["next_log_prior"])
    stray = stray_bonus(after, setting.scaled_prior_weight, 0.0 if greedy else setting.temperature)
    target = critic_target(batch, next_values, after.probability, stray, setting.gamma)

    def loss(net: Layers) -> Array:
        values = heads(setting, net, batch["state"])
        return critic_loss(values[jnp.arange(len(values)), batch["action"]], target)

    error, gradient = jax.value_and_grad(loss)(net)
    metrics = {
        "loss": error,
        "q_residual": (target @ setting.weights).mean(),
        "entropy": jax.scipy.special.entr(after.probability).sum(1).mean(),
    }
    return advance(progress, {"net": gradient}, "net", setting.rate, setting.target_rate), metrics


@jax.jit
def dqn_updates(setting: DQN, progress: Progress, batches: Batch) -> tuple[Progress, dict[str, Array]]:
    """Take one update for each of the batches (n, ...), and return the metrics (n,) of all."""
    return jax.lax.scan(partial(dqn_update, setting), progress, batches)


def update_dqn(agent: Any, n_updates: int, rng: np.random.Generator) -> dict[str, float]:
    """Take the gradient steps of `ResidualDQN.update` with that agent, and return its metrics."""
    rows = [agent.replay.draw(agent.config.batch_size, rng) for _ in range(n_updates)]
    setting = DQN(
        net=form(agent.net),
        weights=agent.weights().numpy(),
        gamma=np.float32(agent.gamma),
        scaled_prior_weight=np.float32(agent.scaled_prior_weight),
        temperature=np.float32(agent.temperature) if agent.temperature > 0 else None,
        rate=np.float32(agent.optimiser.param_groups[0]["lr"]),
        target_rate=np.float32(agent.config.target_rate),
    )
    updates, parameters = partial(dqn_updates, setting), {"net": pairs(agent.net)}
    metrics = run(updates, parameters, agent.optimiser, pairs(agent.target_net), gather(agent.replay, rows))
    last = {name: float(values[-1]) for name, values in metrics.items()}
    return {**last, "loss": float(metrics["loss"].mean())}


# --- To and from torch -----------------------------------------------------------------------------------


def form(net: nn.Module) -> Form:
    """Return what a `nets.mlp` has besides its layers."""
    return Form(find_activation(net), scale_of(next(net.children())))


def scale_of(layer: nn.Module) -> Any:
    """Return the factors of a layer's inputs, 1 if it has none."""
    scale = getattr(layer, "scale", None)
    return 1.0 if scale is None else scale.numpy()


def pairs(net: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the weights and biases of a network, layer by layer."""
    parameters = list(net.parameters())
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def to_numpy(tensors: Any) -> Any:
    """Return a tree of tensors as arrays in the same memory."""
    return jax.tree.map(lambda tensor: tensor.detach().numpy(), tensors)


def gather(replay: Replay, rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the batches (n, N, ...) of the replay's rows, with flat observations."""
    columns = replay.take(np.concatenate(rows))
    batches = {
        name: column.numpy().reshape(len(rows), -1, *column.shape[1:]) for name, column in columns.items()
    }
    for name in ("state", "next_state"):
        batches[name] = batches[name].reshape(*batches[name].shape[:2], -1)
    return batches


def run(
    updates: Callable[..., tuple[Progress, dict[str, Array]]],
    parameters: Any,
    optimiser: torch.optim.Optimizer,
    target: list[tuple[Tensor, Tensor]],
    batches: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Run compiled updates on torch's numbers, write the new ones there, and return the metrics (n,)."""

    def read(name: str) -> Any:
        return jax.tree.map(lambda parameter: moments_of(optimiser, parameter)[name], parameters)

    first, second, steps = read("exp_avg"), read("exp_avg_sq"), read("step")
    step = jax.tree.leaves(steps)[0]
    tensors = Progress(parameters, first, second, step, target)
    progress, metrics = updates(to_numpy(tensors), batches)
    for tensor, array in zip(jax.tree.leaves(tensors), jax.tree.leaves(progress), strict=True):
        tensor.detach().numpy()[...] = array
    for each in jax.tree.leaves(steps):
        each.fill_(float(progress.step))
    return {name: np.asarray(values) for name, values in metrics.items()}


def moments_of(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """Return the moments of a parameter, with zeros where the optimiser has not taken a step yet."""
    if not optimiser.state[parameter]:
        names = ("exp_avg", "exp_avg_sq")
        zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name in names}
        optimiser.state[parameter] = {"step": torch.zeros(()), **zeros}
    return optimiser.state[parameter]
