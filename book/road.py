"""All of MEReQ on one small grid, in dense numpy: chapter 3 reads it, later chapters replace parts of it."""

import numpy as np

# The world: states are free cells, row by row; actions are up, right, down, left, stay.
MAP = """
###########
#S.cc.cc.G#
#S.cc.cc.G#
#S.cc.cc..#
#S........#
###########
"""
MOVES = (-1, 0), (0, 1), (1, 0), (0, -1), (0, 0)
SLIP, GAMMA, HORIZON = 0.1, 0.95, 15
ROWS = MAP.split()
CELLS = [(y, x) for y, row in enumerate(ROWS) for x in range(len(row)) if row[x] != "#"]
S, A, K = len(CELLS), len(MOVES), 2


def mark(letter):
    """(S,): 1 on the cells of this letter."""
    return np.array([ROWS[y][x] == letter for y, x in CELLS], dtype=float)


def make_transition():
    """P (S, A, S); a move slips to either side with probability SLIP / 2."""
    index, P = {cell: s for s, cell in enumerate(CELLS)}, np.zeros((S, A, S))
    for s, (y, x) in enumerate(CELLS):
        after = [index.get((y + down, x + right), s) for down, right in MOVES]
        P[s, 4, s] = 1.0
        for a in range(4):
            P[s, a, after[a]] += 1 - SLIP
            P[s, a, after[(a - 1) % 4]] += SLIP / 2
            P[s, a, after[(a + 1) % 4]] += SLIP / 2
    return P


P, RHO = make_transition(), mark("S") / mark("S").sum()
FAR = np.repeat(1 - mark("G")[:, None], A, axis=1)  # not at a flag
RUG = P @ mark("c")  # chance of ending on a rug
F = np.stack([FAR, RUG], axis=2)  # features f(s, a), (S, A, K)


# Soft control, and the residual version of it.
def soft_max(x, temperature):
    """(S, A) -> (S,), temperature * log sum exp(x / temperature)."""
    top = x.max(axis=1)
    scaled = np.exp((x - top[:, None]) / temperature)
    return top + temperature * np.log(scaled.sum(axis=1))


def solve(reward, bonus, temperature, sweeps=400):
    """Q_R, V_R and log pi_hat; bonus is omega' log pi, or 0 without a prior."""
    v = np.zeros(S)
    for _ in range(sweeps):
        q = reward + GAMMA * (P @ v)
        v = soft_max(q + bonus, temperature)
    return q, v, (q + bonus - v[:, None]) / temperature  # Q_R, V_R, log pi_hat


# The prior was made for a reward that the method never sees.
ALPHA, ALPHA_HAT, OMEGA = 0.1, 0.1, 1.0
OMEGA_SCALED = OMEGA * ALPHA  # omega'
LOG_PRIOR = solve(F @ [-1.0, 0.0], 0.0, ALPHA)[2]


def customise(theta):
    """log pi_hat (S, A): the prior, customised for theta . f."""
    return solve(F @ theta, OMEGA_SCALED * LOG_PRIOR, ALPHA_HAT)[2]


# The expert, simulated: what she wants, when she takes over, and how she acts.
TRUTH, MARGIN, RELEASE = np.array([0.0, -1.0]), 0.4, 3
LOG_EXPERT = customise(TRUTH)
OBJECTS = ALPHA_HAT * LOG_EXPERT < -MARGIN  # (S, A): costs her more than the margin


def watch(log_policy, n, rng):
    """n steps as rows (state, action, hers, let pass)."""
    rows, t = [], 0
    for _ in range(n):
        if t == 0:
            s, hers, calm, objected = rng.choice(S, p=RHO), False, 0, False
        if not hers and objected:  # she takes over; the step before was not let pass
            hers, calm, rows[-1][3] = True, 0, 0
        elif hers and calm >= RELEASE:
            hers = False
        proposed = rng.choice(A, p=np.exp(log_policy[s]))
        objected = OBJECTS[s, proposed]
        calm = 0 if objected else calm + 1
        a = rng.choice(A, p=np.exp(LOG_EXPERT[s])) if hers else proposed
        rows.append([s, a, int(hers), int(not hers)])
        s, t = rng.choice(S, p=P[s, a]), (t + 1) % HORIZON
    return np.array(rows)


# Two estimators of theta.
def mean_features(log_policy):
    """(K,): mean features of a step, in episodes from RHO."""
    policy, at, total = np.exp(log_policy), RHO, np.zeros(K)
    for _ in range(HORIZON):
        visits = at[:, None] * policy
        total += np.einsum("sa,sak->k", visits, F)
        at = np.einsum("sa,sat->t", visits, P)
    return total / HORIZON


def match(theta, steps, rate=0.5, most=150, tolerance=0.01):
    """theta by feature matching, the paper's estimator."""
    s, a, hers, passed = steps.T
    target = np.average(F[s, a], axis=0, weights=hers + passed)
    for _ in range(most):
        gradient = target - mean_features(customise(theta))
        if np.linalg.norm(gradient) < tolerance:
            break
        theta = theta + rate * gradient
    return theta


def successor_features(log_policy):
    """psi (S, A, K): discounted features to come."""
    onward = np.einsum("sat,tb->satb", P, np.exp(log_policy)).reshape(S * A, S * A)
    psi = np.linalg.solve(np.eye(S * A) - GAMMA * onward, F.reshape(S * A, K))
    return psi.reshape(S, A, K)


def maximise_likelihood(theta, steps, sd=0.5, newton_steps=20):
    """theta by the likelihood of her actions, our estimator."""
    s, a = steps[steps[:, 2] == 1, :2].T
    for _ in range(newton_steps):
        log_policy = customise(theta)
        psi, policy = successor_features(log_policy), np.exp(log_policy)
        centred = psi - np.einsum("sa,sak->sk", policy, psi)[:, None]
        score = centred[s, a].sum(axis=0) / ALPHA_HAT - theta / sd**2
        covariance = np.einsum("sa,sak,sal->skl", policy, centred, centred)
        information = covariance[s].sum(axis=0) / ALPHA_HAT**2 + np.eye(K) / sd**2
        step = np.linalg.solve(information, score)
        theta = theta + step * min(1.0, 0.5 / np.linalg.norm(step))
    return theta


# The loop.
def align(estimate, iterations=4, n=300, seed=0):
    """The loop: yields rate, theta and log pi_hat."""
    rng, steps = np.random.default_rng(seed), []
    theta, log_policy = np.zeros(K), LOG_PRIOR
    for _ in range(iterations):
        steps.append(watch(log_policy, n, rng))
        theta = estimate(theta, np.concatenate(steps))
        log_policy = customise(theta)
        yield steps[-1][:, 2].mean(), theta, log_policy


def kl_to_expert(log_policy):
    """KL(expert || policy) [nats a step], along her episodes."""
    policy, at, total = np.exp(LOG_EXPERT), RHO, 0.0
    for _ in range(HORIZON):
        visits = at[:, None] * policy
        total += (visits * (LOG_EXPERT - log_policy)).sum()
        at = np.einsum("sa,sat->t", visits, P)
    return total / HORIZON


if __name__ == "__main__":
    for estimate in (match, maximise_likelihood):
        print(estimate.__name__)
        for rate, theta, log_policy in align(estimate):
            print(f"  rate {rate:.2f}, theta", np.round(theta, 2) + 0.0, f"KL {kl_to_expert(log_policy):.3f}")
