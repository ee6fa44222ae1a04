"""Inverse reinforcement learning: estimators of theta from expert steps, for any `Learner`.

`maximise_robust_likelihood` needs a `TemperedLearner`, which can also vary the weight of the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from scipy.linalg import eigh
from scipy.special import expit, logit

from mereq_min.interfaces import Learner, Policy, SegmentLearner, TemperedLearner
from mereq_min.segments import Pieces, cut
from mereq_min.steps import Steps, mean_features, ratio_covariance, time_weights
from mereq_min.validation import Array, Mask, check_array, check_number


@dataclass(frozen=True)
class Estimate:
    """An inferred reward, its policy, and how the fit ended.

    Attributes:
        theta: (K,) reward weights.
        standard_errors: (K,) standard errors of theta; all inf if the steps do not determine theta.
        policy: the policy for theta.
        gradient_norm: Euclidean norm of the gradient at theta.
        solves: number of policies solved for.
        converged: whether the stopping rule was met within the allowed steps.
    """

    theta: Array
    standard_errors: Array
    policy: Policy
    gradient_norm: float
    solves: int
    converged: bool


@dataclass(frozen=True)
class RobustEstimate(Estimate):
    """An estimate that allows for an expert whose actions are noisier than the robot's.

    `theta` and its errors are those at the robot's temperature, and so is `policy`.

    Attributes:
        error_rate: eps, the share of the expert's actions that are random.
        temperature_ratio: the expert's temperature divided by alpha_hat.
    """

    error_rate: float
    temperature_ratio: float


@dataclass(frozen=True)
class FeatureMatchingConfig:
    """Settings of feature matching, gradient ascent on the dual of maximum causal entropy."""

    learning_rate: float = 0.5
    """eta, factor on the difference of mean features [reward]."""
    tolerance: float = 0.01
    """Stop when the norm of the difference of mean features falls below it [feature]."""
    tolerance_errors: float = 0.5
    """Stop also when it falls below this many standard errors of the policy's mean features: what is left may
    be sampling noise of the rollouts. No effect on tables, whose errors are 0 [standard errors]."""
    max_steps: int = 150
    """Largest number of policies solved for in one update."""
    discount: float = 1.0
    """A step at time t counts discount**t, for expert and policy; with 1, all steps count the same."""

    def __post_init__(self) -> None:
        check_number("learning_rate", self.learning_rate, 0, exclusive=True)
        check_number("tolerance", self.tolerance, 0)
        check_number("tolerance_errors", self.tolerance_errors, 0)
        check_number("max_steps", self.max_steps, 1, integer=True)
        check_number("discount", self.discount, 0, 1, exclusive=True)


@dataclass(frozen=True)
class SegmentLikelihoodConfig:
    """Settings of the segment likelihood: maximum a posteriori by Fisher scoring."""

    prior_sd: float = 0.5
    """Standard deviation of the Gaussian prior on theta, for features of unit range [reward]."""
    least_step: float = 1e-4
    """Stop when a step moves theta by less than this [standard errors]."""
    least_noisy_step: float = 0.1
    """The same for a learner whose policies are approximate. Noise in its scores keeps the ascent moving, but
    each reversal of direction shortens the steps, until they are below this [standard errors]."""
    max_iterations: int = 20
    """Largest number of policies solved for in one update."""

    def __post_init__(self) -> None:
        check_number("prior_sd", self.prior_sd, 0, exclusive=True)
        check_number("least_step", self.least_step, 0, exclusive=True)
        check_number("least_noisy_step", self.least_noisy_step, 0, exclusive=True)
        check_number("max_iterations", self.max_iterations, 1, integer=True)


@dataclass(frozen=True)
class RobustConfig:
    """Priors of the robust likelihood, in addition to `SegmentLikelihoodConfig`."""

    error_rate: float = 0.05
    """Mode of the Beta prior on eps, the share of random actions, in [0, 0.5]; 0 fixes eps at 0."""
    error_steps: float = 20.0
    """Strength of that prior, as a pseudo-count [expert steps]."""
    temperature_sd: float = 0.5
    """Standard deviation of the Gaussian prior, with mean 1, on the robot's temperature divided by the
    expert's; 0 fixes this ratio at 1."""

    def __post_init__(self) -> None:
        check_number("error_rate", self.error_rate, 0, 0.5)
        check_number("error_steps", self.error_steps, 0, exclusive=True)
        check_number("temperature_sd", self.temperature_sd, 0)


@dataclass(frozen=True)
class SegmentMatchingConfig:
    """Settings of segment matching, beside those of the likelihood."""

    longest: int = 20
    """Longest piece of an intervention from whose start the policy is rolled out [steps]."""
    n_paths: int = 4
    """Paths that a learner whose sums are not exact simulates from each start."""
    noise_tolerance: float = 0.5
    """Stop also when a step is below this many standard deviations of what the noise of the simulated paths
    makes of it [standard deviations]."""

    def __post_init__(self) -> None:
        check_number("longest", self.longest, 1, integer=True)
        check_number("n_paths", self.n_paths, 2, integer=True)
        check_number("noise_tolerance", self.noise_tolerance, 0)


LONGEST_STEP = 0.5
"""Longest step of Fisher scoring in theta, for rewards of unit size [reward]. The information of a policy
says nothing about very different policies, so that longer steps would overshoot."""


def match_features(
    learner: Learner, steps: Steps, weights: Array, theta: Array, config: FeatureMatchingConfig
) -> Estimate:
    """Infer theta by feature matching: theta <- theta + eta (f_bar_E - f_bar_pi_hat), Chen et al. (2025).

    The step is the gradient of the maximum-causal-entropy dual (Ziebart et al. 2010) if the weighted steps
    are whole trajectories from rho0, all of one length. On segments of trajectories theta is biased. If
    episodes end early, a mean over steps is a ratio: the step is then not a gradient, and theta can diverge.

    Book: eq-dual-gradient, eq-feature-matching, eq-segment-bias.

    Args:
        learner: solves for a theta; its discount must equal that of the config.
        steps: the steps.
        weights: (N,) weights of the steps, see `steps.sample_weights`.
        theta: (K,) initial theta.
        config: step size, tolerance and largest number of steps.

    Raises:
        ValueError: if the expert set is empty, theta is malformed, or learner and config have different
            discounts.
    """
    if learner.discount != config.discount:
        raise ValueError(
            "learner and config must have the same discount, but the learner discounts by "
            f"{learner.discount} and feature matching by {config.discount}"
        )
    target = mean_features(steps, weights, config.discount)
    theta = check_array("theta", theta, shape=target.shape)
    for iteration in range(1, config.max_steps + 1):
        policy = learner.solve(theta)
        gradient = target - learner.mean_features()
        norm = float(np.linalg.norm(gradient))
        noise = math.sqrt(learner.mean_features_covariance().trace())
        converged = norm < max(config.tolerance, config.tolerance_errors * noise)
        if converged or iteration == config.max_steps:
            break
        theta = theta + config.learning_rate * gradient
    errors = _matching_errors(learner, _target_covariance(steps, weights, config.discount))
    return Estimate(theta, errors, policy, norm, iteration, converged)


def maximise_likelihood(
    learner: Learner,
    steps: Steps,
    theta: Array,
    config: SegmentLikelihoodConfig,
    *,
    longest_step: float = LONGEST_STEP,
) -> Estimate:
    """Infer theta by segment likelihood: the theta that is most probable given the expert's actions (ours).

    Maximises sum log pi_hat_theta(a | s) - |theta|^2 / (2 sd^2). The estimate is consistent on segments that
    start anywhere, because it uses the expert's actions only given the states in which they were taken. Each
    step of Fisher scoring is the gradient times the inverse information. There is no line search, which a
    learner with approximate policies would mislead. For such a learner the standard errors follow from the
    spread of the score over interventions.

    Book: eq-likelihood, eq-map, eq-fisher-scoring, eq-segment-score, eq-sandwich.

    Args:
        learner: solves for a theta, and gives score and information through successor features.
        steps: the expert steps.
        theta: (K,) initial theta.
        config: prior on theta and largest number of steps.
        longest_step: longest step in theta [reward]; it scales with the unit of reward, as `prior_sd` does.

    Raises:
        ValueError: if there are no steps, an argument is malformed, or the prior never takes some expert
            action.
    """
    if len(steps) == 0:
        raise ValueError(_NO_STEP)
    theta = check_array("theta", theta, shape=(steps.features.shape[1],))
    precision = config.prior_sd**-2 * np.eye(len(theta))

    def evaluate(theta: Array) -> _Point:
        policy = learner.solve(theta)
        if np.isneginf(policy.log_prob(steps.state, steps.action)).any():
            raise ValueError(_NEVER_TAKEN)
        scores, information = learner.scores(steps), learner.information(steps)
        gradient = scores.sum(axis=0) - precision @ theta
        variance = _variance(learner, steps, scores, information) + precision
        return _Point(theta, policy, gradient, information + precision, variance)

    top, solves, converged = _ascend(evaluate, theta, config, longest_step, learner.is_exact)
    errors = np.sqrt(np.diag(top.covariance()))
    return Estimate(top.x, errors, top.policy, float(np.linalg.norm(top.gradient)), solves, converged)


def _variance(learner: Learner, steps: Steps, scores: Array, information: Array) -> Array:
    """Return the variance (n, n) of the sum of the scores (N, n) of some steps.

    If policies are exact, it is the information. Scores of an approximate policy are off by its errors, which
    are alike in neighbouring states. So the scores of an intervention are added up, and the variance of the
    sum is estimated from the spread of these sums.
    """
    if learner.is_exact:
        return information
    return _mixed_covariance(_by_intervention(steps, scores), information)


def _by_intervention(steps: Steps, values: Array) -> Array:
    """Return the sums (n, K) of values (N, K) over each run of consecutive steps."""
    goes_on = (np.diff(steps.episode) == 0) & (np.diff(steps.t) == 1)
    return np.add.reduceat(values, np.flatnonzero(np.append(True, ~goes_on)), axis=0)


def _mixed_covariance(moments: Array, model: Array) -> Array:
    """Return the covariance (K, K) of the sum of n independent moments (n, K).

    A few moments say little about it: `model`, the covariance of the sum by the policy, counts like K + 1
    more of them.
    """
    n, K = moments.shape
    centred = moments - moments.mean(axis=0)
    spread = n / max(n - 1, 1) * centred.T @ centred
    return (n * spread + (K + 1) * model) / (n + K + 1)


_NO_STEP = "the expert set is empty: no step has weight; roll out until the expert intervenes"
_NEVER_TAKEN = (
    "the expert took an action that the prior never takes, so no residual reward explains it; "
    "give the prior a little probability everywhere"
)


@dataclass(frozen=True)
class _Point:
    """Parameters x (n,), their policy, and gradient (n,) and information (n, n) of what is maximised."""

    x: Array
    policy: Policy
    gradient: Array
    information: Array
    variance: Array
    """(n, n) variance of the gradient. Where steps are as the policy supposes, it is the information."""
    value: float | None = None
    """Objective that is maximised; None unless it is known exactly enough to compare points by it."""
    noise: float = 0.0
    """Length below which a step may be nothing but the noise of simulated paths [standard errors]."""

    def step(self) -> Array:
        """Return the step of Fisher scoring (n,)."""
        return np.asarray(np.linalg.solve(self.information, self.gradient), dtype=np.float64)

    def length(self) -> float:
        """Return the length of the step in standard errors."""
        return math.sqrt(float(self.gradient @ np.linalg.solve(self.variance, self.gradient)))

    def covariance(self) -> Array:
        """Return the covariance (n, n) of x by the sandwich formula (Huber 1967).

        Book: eq-sandwich.
        """
        inverse = np.linalg.inv(self.information)
        return inverse @ self.variance @ inverse


_AnyPoint = TypeVar("_AnyPoint", bound=_Point)


def _ascend(
    evaluate: Callable[[Array], _AnyPoint],
    x: Array,
    config: SegmentLikelihoodConfig,
    longest_step: float,
    is_exact: bool,
) -> tuple[_AnyPoint, int, bool]:
    """Climb by Fisher scoring; returns where it ended, the number of points, and whether it converged.

    If values are known, a step that leads down is halved.
    """
    check_number("longest_step", longest_step, 0, exclusive=True)
    last_step, reversals, top = np.zeros_like(x), 0, None
    for solves in range(1, config.max_iterations + 1):
        point = evaluate(x)
        if point.value is not None:
            if top is not None and top.value is not None and point.value < top.value - 1e-9 * abs(top.value):
                x = top.x + (x - top.x) / 2
                continue
            last_step = np.zeros_like(x)
        top = point
        step = top.step()
        # Kesten (1958): a step that reverses the last one is a sign of noise; shorter steps average it out.
        reversals += bool(step @ last_step < 0)
        least = config.least_step if is_exact else config.least_noisy_step * (1 + reversals)
        if top.length() < max(least, top.noise):
            return top, solves, True
        last_step = _limited(step, longest_step) / (1 + reversals)
        x = x + last_step
    assert top is not None  # the first point is always taken
    return top, config.max_iterations, False


def _limited(step: Any, longest_step: float) -> Array:
    """Return a step (K,), shortened to `longest_step`."""
    length = float(np.linalg.norm(step))
    return np.asarray(step, dtype=np.float64) * (longest_step / max(length, longest_step))


def match_segments(
    learner: SegmentLearner,
    steps: Steps,
    theta: Array,
    config: SegmentLikelihoodConfig,
    matching: SegmentMatchingConfig,
    *,
    horizon: int,
    longest_step: float = LONGEST_STEP,
) -> Estimate:
    """Infer theta by matching features of interventions with the policy's from the same starts (ours).

    Interventions are cut into pieces, see `segments.cut`. From the start of piece i, the policy for theta
    would collect features G_i(theta) in the steps that the piece was meant to last. The expert collected F_i
    until it handed back or the piece was over, and the policy would collect R_i(theta) in the steps that are
    left. If expert and policy are the same,

        m_i(theta) = F_i + R_i(theta) - G_i(theta)

    has mean 0 whatever the rule for handing back, since that depends only on the past (optional stopping).
    Without R_i it would be biased: an expert that hands back once all is well has seen more trouble in its
    steps than the same policy sees in as many.

    With M the sum of all m_i, S its covariance and J = E[dM / d theta], theta solves
    J^T S^-1 M + theta / sd^2 = 0: the generalised method of moments (Hansen 1982) with the prior of the
    segment likelihood. As in Fisher scoring, J is computed as if the expert were the policy. R_i and the last
    part of G_i then have the same mean for every theta and cancel, so -J is the derivative of the first part
    of G_i. S is estimated from the spread of the moments over interventions, mixed with their covariance
    under the policy: steps of one intervention may be dependent, and simulated paths noisy. With these
    weights the sandwich formula gives the covariance (J^T S^-1 J + I / sd^2)^-1 of theta.

    A learner whose sums are simulated ends at the mean of the points that the last half of its steps led to.

    Book: eq-segment-moments.

    Args:
        learner: solves for a theta, and starts its policy where steps were taken.
        steps: whole rollouts.
        theta: (K,) initial theta.
        config: prior on theta and largest number of steps.
        matching: length of pieces, and paths to simulate.
        horizon: time limit of an episode [steps].
        longest_step: longest step in theta [reward].

    Raises:
        ValueError: if there are no expert steps, an argument is malformed, or the learner cannot start at the
            steps.
    """
    if not steps.is_intervention.any():
        raise ValueError(_NO_STEP)
    theta = check_array("theta", theta, shape=(steps.features.shape[1],))
    moments = _SegmentMoments(learner, steps, cut(steps, matching.longest, horizon), config, matching)
    top, solves, converged = _ascend(moments.evaluate, theta, config, longest_step, learner.is_exact)
    theta, information, policy = top.x, top.information, top.policy
    if not learner.is_exact:
        last = moments.visited[len(moments.visited) // 2 :]
        information = np.mean([each.information for each in last], axis=0)
        ends = [each.x + _limited(each.step(), longest_step) for each in last]
        theta = np.mean(ends, axis=0)
        policy, solves = _walk(learner, top.x, theta, longest_step), solves + 1
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    return Estimate(theta, errors, policy, float(np.linalg.norm(top.gradient)), solves, converged)


class _SegmentMoments:
    """The moments of `match_segments` and what is maximised of them; `visited` are the points so far."""

    def __init__(
        self,
        learner: SegmentLearner,
        steps: Steps,
        pieces: Pieces,
        config: SegmentLikelihoodConfig,
        matching: SegmentMatchingConfig,
    ) -> None:
        self.learner, self.steps, self.pieces, self.matching = learner, steps, pieces, matching
        self.precision = config.prior_sd**-2
        self.visited: list[_Point] = []

    def evaluate(self, theta: Array) -> _Point:
        """Return gradient and information at theta."""
        policy = self.learner.solve(theta)
        moments, jacobian, model, noise = self.measure()
        weight = np.linalg.inv(self._covariance(moments, model + noise))
        pull = jacobian.T @ weight
        gradient = -pull @ moments.sum(axis=0) - self.precision * theta
        information = pull @ jacobian + self.precision * np.eye(len(theta))
        shaking = np.trace(np.linalg.solve(information, pull @ noise @ pull.T))
        allowed = self.matching.noise_tolerance * math.sqrt(shaking)
        self.visited.append(_Point(theta, policy, gradient, information, information, noise=allowed))
        return self.visited[-1]

    def measure(self) -> tuple[Array, Array, Array, Array]:
        """Return what the last solved policy makes of the moments.

        Returns:
            The moments (n, K) of each intervention, the expected derivative (K, K) of their sum, the
            covariance (K, K) that the sum has if the expert never hands back before a piece is over, and that
            of its noise.
        """
        pieces = self.pieces
        n, left = len(pieces.start), np.flatnonzero(pieces.rest)
        rows = np.append(pieces.start, pieces.stop[left])
        sums = self.learner.feature_sums(
            self.steps,
            rows,
            np.append(pieces.steps, pieces.rest[left]),
            np.append(pieces.stop - pieces.start, np.zeros_like(left)),
            self.matching.n_paths,
        )
        moments = pieces.features - sums.mean[:n]
        moments[left] += sums.mean[n:]
        of_segments = np.zeros((pieces.segment[-1] + 1, moments.shape[1]))
        np.add.at(of_segments, pieces.segment, moments)
        model, noise = sums.covariance[:n].sum(axis=0), sums.covariance.sum(axis=0) / sums.n_paths
        return of_segments, -sums.jacobian.sum(axis=0), model, noise

    def _covariance(self, moments: Array, model: Array) -> Array:
        """Return the covariance (K, K) of the sum of n independent moments (n, K), which is definite."""
        mixed = _mixed_covariance(moments, model)
        return mixed + LEAST_SPREAD * max(float(np.trace(mixed)), LEAST_SPREAD) * np.eye(len(mixed))


LEAST_SPREAD = 1e-6
"""Share of the whole variance of moments that is added to each, for features that nothing changes."""


LEAST_RATIO = 0.1
"""Smallest omega' / omega'_0 that is believed: an expert at ten times the robot's temperature."""


def maximise_robust_likelihood(
    learner: TemperedLearner,
    slips: Policy,
    steps: Steps,
    theta: Array,
    config: SegmentLikelihoodConfig,
    robust: RobustConfig,
    *,
    error_rate: float | None = None,
    temperature_ratio: float = 1.0,
    longest_step: float = LONGEST_STEP,
) -> RobustEstimate:
    """Infer theta by a segment likelihood that forgives random actions and another temperature (ours).

    An expert step is a slip with probability eps, and then uniformly random; else it comes from the policy
    for theta and omega', at alpha_hat:

        p(a | s) = (1 - eps) pi_{theta, omega'}(a | s) + eps u(a).

    Over a Box, u is a density. An expert at c times the temperature alpha_hat who wants theta* . f beyond
    omega r acts as one at alpha_hat who wants 1/c of both, since policies depend on reward / temperature
    alone: omega' / omega'_0 = 1/c, with omega'_0 the task's. So log pi is one more feature, with weight
    omega', and the learner's parameters are (theta, omega' / omega'_0 - 1).

    The parameters maximise the sum of log p plus the log-densities of their priors: theta is normal with
    `config.prior_sd`, omega' / omega'_0 is normal around 1, and eps has a Beta distribution. With the
    responsibility rho_i = (1 - eps) pi(a_i | s_i) / p(a_i | s_i), the probability that step i is no slip, the
    log-likelihood L = sum_i log p(a_i | s_i) has the derivatives

        dL / d(theta, omega') = sum_i rho_i grad log pi(a_i | s_i),
        dL / d logit eps = sum_i (1 - rho_i - eps).

    If it were known which steps are slips, the information would be that of the others. EM climbs by it
    (Dempster et al. 1977; with one Newton step in place of the M-step, Lange 1995). Not knowing them costs
    sum_i rho_i (1 - rho_i) v_i v_i^T, v_i = (grad log pi(a_i | s_i), -1) (Louis 1982). What is left gives
    the standard errors and, where it is definite enough, faster steps.

    The policy that is returned acts at alpha_hat and omega'_0, and theta is rescaled to them: theta
    omega'_0 / omega'. The robot need not be as noisy as its expert. With `error_rate` and `temperature_sd` 0
    it is `maximise_likelihood`.

    Book: eq-contamination, eq-expert-temperature, eq-responsibility, eq-robust-score, eq-louis.

    Args:
        learner: solves for (theta, omega' / omega'_0 - 1).
        slips: the distribution u of slips, see `policies.UniformPolicy`.
        steps: the expert steps.
        theta: (K,) initial theta, at the robot's temperature.
        config: prior on theta and largest number of steps.
        robust: priors on eps and on omega'.
        error_rate: initial eps; default: that of `robust`.
        temperature_ratio: initial ratio of the expert's temperature to alpha_hat.
        longest_step: longest step in the parameters [reward].

    Raises:
        ValueError: if there are no steps, an argument is malformed, or nothing explains some expert action.
    """
    mixture = _Mixture(learner, slips, steps, config, robust)
    K = mixture.n_features
    theta = check_array("theta", theta, shape=(K,))
    start = mixture.start(theta, temperature_ratio, robust.error_rate if error_rate is None else error_rate)
    top, solves, converged = _ascend(mixture.evaluate, start, config, longest_step, learner.is_exact)
    share = max(1.0 + float(top.x[K]), LEAST_RATIO)
    theta = top.x[:K] / share
    # theta / share changes with theta and with the share; a known share has no error.
    jacobian = np.column_stack([np.eye(K), -theta * mixture.is_free[K], np.zeros(K)]) / share
    return RobustEstimate(
        theta,
        _delta_errors(top, jacobian),
        _walk(learner, top.x[:-1], np.append(theta, 0.0), longest_step),
        float(np.linalg.norm(top.gradient)),
        solves,
        converged,
        mixture.error_rate(top.x),
        1.0 / share,
    )


def _walk(learner: Learner, start: Array, end: Array, longest_step: float) -> Policy:
    """Return the policy for the parameters `end`, to which an approximate learner comes in several steps."""
    steps = 1 if learner.is_exact else max(1, int(np.ceil(np.linalg.norm(end - start) / longest_step)))
    for done in range(1, steps):
        learner.solve(start + done / steps * (end - start))
    return learner.solve(end)


@dataclass(frozen=True, kw_only=True)
class _MixturePoint(_Point):
    observed: Array
    """Observed information (n, n); `information` is that of the next step."""


class _Mixture:
    """Log-posterior of x = (theta, omega' / omega'_0 - 1, logit eps), see `maximise_robust_likelihood`."""

    def __init__(
        self,
        learner: TemperedLearner,
        slips: Policy,
        steps: Steps,
        config: SegmentLikelihoodConfig,
        robust: RobustConfig,
    ) -> None:
        if len(steps) == 0:
            raise ValueError(_NO_STEP)
        self.learner, self.steps = learner, steps
        self.log_slip = slips.log_prob(steps.state, steps.action)
        self.n_features = K = steps.features.shape[1]
        self.is_free = np.array([True] * K + [robust.temperature_sd > 0, robust.error_rate > 0])
        widths = np.array([config.prior_sd] * K + [robust.temperature_sd if self.is_free[K] else 1.0])
        self.precision = widths**-2
        self.slips = robust.error_steps * robust.error_rate
        self.others = robust.error_steps - self.slips

    def start(self, theta: Array, temperature_ratio: float, error_rate: float) -> Array:
        """Return x for theta at the robot's temperature; what is known has its known value."""
        share = 1.0 / temperature_ratio if self.is_free[-2] else 1.0
        return np.array([*(theta * share), share - 1.0, logit(error_rate) if self.is_free[-1] else 0.0])

    def error_rate(self, x: Array) -> float:
        """Return eps."""
        return float(expit(x[-1])) if self.is_free[-1] else 0.0

    def evaluate(self, x: Array) -> _MixturePoint:
        """Return value, gradient and information at x.

        Raises:
            ValueError: if some expert action is impossible.
        """
        steps, eps = self.steps, self.error_rate(x)
        policy = self.learner.solve(x[:-1])
        with np.errstate(divide="ignore"):
            log_own = np.log1p(-eps) + policy.log_prob(steps.state, steps.action)
            log_p = np.logaddexp(log_own, np.log(eps) + self.log_slip)
        if np.isneginf(log_p).any():
            raise ValueError(_NEVER_TAKEN)
        rho, scores = np.exp(log_own - log_p), self.learner.scores(steps)
        value = log_p.sum() - 0.5 * self.precision @ x[:-1] ** 2
        if self.is_free[-1]:
            value += self.slips * np.log(eps) + self.others * np.log1p(-eps)
        of_steps = np.column_stack([rho[:, None] * scores, 1.0 - rho - eps])
        of_priors = np.append(-self.precision * x[:-1], self.slips - (self.slips + self.others) * eps)
        gradient = np.where(self.is_free, of_steps.sum(axis=0) + of_priors, 0.0)
        priors = np.diag(np.append(self.precision, (self.slips + self.others) * eps * (1.0 - eps)))
        known = priors.copy()
        known[:-1, :-1] += self.learner.information(steps, rho)
        known[-1, -1] += len(steps) * eps * (1.0 - eps)
        doubt = np.column_stack([scores, np.full(len(steps), -1.0)])
        observed = known - (rho * (1.0 - rho) * doubt.T) @ doubt
        enough = eigh(*(_only(each, self.is_free) for each in (observed, known)), eigvals_only=True)[0]
        information = observed if enough > LEAST_LEFT else known
        free, variance = np.ix_(self.is_free, self.is_free), priors.copy()
        variance[free] += _variance(
            self.learner, steps, of_steps[:, self.is_free], (information - priors)[free]
        )
        comparable = float(value) if self.learner.is_exact else None
        information, variance, observed = (
            _only(each, self.is_free) for each in (information, variance, observed)
        )
        return _MixturePoint(x, policy, gradient, information, variance, comparable, observed=observed)


LEAST_LEFT = 1e-3
"""Share of the information of known slips that must be left in each direction for a step to rely on it."""


def _only(information: Array, is_free: Mask) -> Array:
    """Return the information (n, n) on the free parameters, and the identity on those that are known."""
    return np.where(np.outer(is_free, is_free), information, np.eye(len(is_free)))


def _delta_errors(point: _MixturePoint, jacobian: Array) -> Array:
    """Return standard errors (K,) by the delta method; inf if the observed information is not definite."""
    if np.linalg.eigvalsh(point.observed)[0] <= 0:
        return np.full(len(jacobian), np.inf)
    covariance = replace(point, information=point.observed).covariance()
    return np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))


def _target_covariance(steps: Steps, weights: Array, discount: float) -> Array:
    """Return the covariance (K, K) of the weighted mean features over independent episodes; inf for one."""
    used = weights * time_weights(steps.t, discount)
    residual = used[:, None] * (steps.features - used @ steps.features / used.sum())
    _, unit = np.unique(steps.episode, return_inverse=True)
    sums = np.zeros((unit.max() + 1, residual.shape[1]))
    np.add.at(sums, unit, residual)
    return ratio_covariance(sums, used.sum())


def _matching_errors(learner: Learner, covariance: Array) -> Array:
    """Return standard errors by the delta method: Cov(theta) = J^-1 Cov(f_bar_E) J^-T."""
    jacobian = learner.mean_features_jacobian()
    if np.linalg.cond(jacobian) > 1e12 or np.isinf(covariance).any():
        return np.full(len(jacobian), np.inf)
    inverse = np.linalg.inv(jacobian)
    return np.sqrt(np.diag(inverse @ covariance @ inverse.T))
