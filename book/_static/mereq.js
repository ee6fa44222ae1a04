"use strict"
/*
 * Residual Q-learning and the likelihood of segments on a table, as in mereq_min, for the room in the page.
 *
 * A room is {S, A, K, gamma, temperature, priorWeight, features, logPrior, indptr, next, chance, initial}: features
 * (S*A*K), logPrior (S*A) and rows s*A + a of the transition matrix are flat arrays, as Python writes them.
 */
const MEReQ = (() => {
  /* Q(s, a) = reward + gamma E[v(s')], flat (S*A). */
  function bellmanQ(room, v, reward) {
    return reward.map((r, row) => {
      let expected = 0
      for (let i = room.indptr[row]; i < room.indptr[row + 1]; i++) expected += room.chance[i] * v[room.next[i]]
      return r + room.gamma * expected
    })
  }

  /* Soft values (S) and log-probabilities (S*A) of the softmax of q / temperature. */
  function softmax(room, q) {
    const { S, A, temperature } = room, v = new Float64Array(S), logPolicy = new Float64Array(S * A)
    for (let s = 0; s < S; s++) {
      const own = q.subarray(s * A, (s + 1) * A), top = Math.max(...own)
      const sum = own.reduce((total, x) => total + Math.exp((x - top) / temperature), 0)
      v[s] = top + temperature * Math.log(sum)
      for (let a = 0; a < A; a++) logPolicy[s * A + a] = (own[a] - v[s]) / temperature
    }
    return { v, logPolicy }
  }

  /* Solve matrix x = right for several right sides at once: Gaussian elimination with partial pivoting, in place. */
  function solveLinear(matrix, right) {
    const n = matrix.length
    for (let k = 0; k < n; k++) {
      let pivot = k
      for (let i = k + 1; i < n; i++) if (Math.abs(matrix[i][k]) > Math.abs(matrix[pivot][k])) pivot = i
      ;[matrix[k], matrix[pivot]] = [matrix[pivot], matrix[k]]
      ;[right[k], right[pivot]] = [right[pivot], right[k]]
      for (let i = k + 1; i < n; i++) {
        const factor = matrix[i][k] / matrix[k][k]
        if (factor === 0) continue
        for (let j = k; j < n; j++) matrix[i][j] -= factor * matrix[k][j]
        for (let j = 0; j < right[i].length; j++) right[i][j] -= factor * right[k][j]
      }
    }
    for (let k = n - 1; k >= 0; k--) {
      for (let j = 0; j < right[k].length; j++) {
        for (let i = k + 1; i < n; i++) right[k][j] -= matrix[k][i] * right[i][j]
        right[k][j] /= matrix[k][k]
      }
    }
    return right
  }

  /* I - gamma P_pi, rows (S) of (S), for log pi. */
  function makeChain(room, logPolicy) {
    return Array.from({ length: room.S }, (_, s) => {
      const row = new Float64Array(room.S)
      row[s] = 1
      for (let a = 0; a < room.A; a++) {
        const pair = s * room.A + a, weight = room.gamma * Math.exp(logPolicy[pair])
        for (let i = room.indptr[pair]; i < room.indptr[pair + 1]; i++) row[room.next[i]] -= weight * room.chance[i]
      }
      return row
    })
  }

  /* The prior, customised for theta . f: Newton's method on the soft Bellman equation of the augmented reward. */
  function customise(room, theta, v = new Float64Array(room.S)) {
    const reward = Float64Array.from(room.logPrior, (logProb, pair) =>
      theta.reduce((total, weight, k) => total + weight * room.features[pair * room.K + k], room.priorWeight * logProb))
    for (;;) {
      const found = softmax(room, bellmanQ(room, v, reward))
      const gap = found.v.map((value, s) => value - v[s])
      if (gap.every(x => Math.abs(x) < 1e-9 * room.temperature)) return found
      const step = solveLinear(makeChain(room, found.logPolicy), Array.from(gap, x => [x]))
      v = v.map((value, s) => value + step[s][0])
    }
  }

  /* psi(s, a) less its mean over the policy's actions, flat (S*A*K). */
  function centredFeatures(room, logPolicy) {
    const { S, A, K } = room
    const meanOf = of => Array.from({ length: S }, (_, s) => Array.from({ length: K }, (_, k) => {
      let total = 0
      for (let a = 0; a < A; a++) total += Math.exp(logPolicy[s * A + a]) * of[(s * A + a) * K + k]
      return total
    }))
    const ahead = solveLinear(makeChain(room, logPolicy), meanOf(room.features))
    const psi = Float64Array.from(room.features)
    for (let pair = 0; pair < S * A; pair++) {
      for (let i = room.indptr[pair]; i < room.indptr[pair + 1]; i++) {
        for (let k = 0; k < K; k++) psi[pair * K + k] += room.gamma * room.chance[i] * ahead[room.next[i]][k]
      }
    }
    const mean = meanOf(psi)
    return psi.map((x, i) => x - mean[Math.floor(i / K / A)][i % K])
  }

  /* Score less the pull of the prior on theta, and information plus its precision, for steps [state, action]. */
  function scoreAndInformation(room, logPolicy, steps, theta, sd) {
    const { A, K, temperature } = room, centred = centredFeatures(room, logPolicy)
    const score = theta.map(x => -x / sd ** 2)
    const information = theta.map((_, k) => theta.map((_, l) => (k === l ? 1 / sd ** 2 : 0)))
    for (const [s, a] of steps) {
      for (let k = 0; k < K; k++) {
        score[k] += centred[(s * A + a) * K + k] / temperature
        for (let l = 0; l < K; l++) {
          for (let b = 0; b < A; b++) {
            const pair = s * A + b
            information[k][l] += Math.exp(logPolicy[pair]) * centred[pair * K + k] * centred[pair * K + l]
              / temperature ** 2
          }
        }
      }
    }
    return { score, information }
  }

  const dot = (x, y) => x.reduce((total, value, i) => total + value * y[i], 0)

  /* theta by the likelihood of her steps [state, action], with standard errors and its policy: Fisher scoring. */
  function fit(room, steps, theta, { sd = 0.5, leastStep = 1e-4, maxIterations = 20, longestStep = 0.5 } = {}) {
    let v, last = theta.map(() => 0), reversals = 0
    for (let iteration = 1; ; iteration++) {
      const found = customise(room, theta, v)
      v = found.v
      const { score, information } = scoreAndInformation(room, found.logPolicy, steps, theta, sd)
      const sides = score.map((x, k) => [x, ...theta.map((_, l) => (k === l ? 1 : 0))])
      const solved = solveLinear(information, sides), step = solved.map(row => row[0])
      if (dot(step, score) < leastStep ** 2 || iteration === maxIterations) {
        const errors = solved.map((row, k) => Math.sqrt(row[1 + k]))
        return { theta, errors, logPolicy: found.logPolicy }
      }
      if (dot(step, last) < 0) reversals++
      const factor = Math.min(1, longestStep / Math.sqrt(dot(step, step))) / (1 + reversals)
      last = step.map(x => x * factor)
      theta = theta.map((x, k) => x + last[k])
    }
  }

  /* Draw an index with these chances, given a uniform number. */
  function draw(chances, uniform) {
    let sum = 0
    for (let i = 0; i < chances.length; i++) if ((sum += chances[i]) > uniform) return i
    return chances.length - 1
  }

  /* Where an action leads, and what a policy does, by chance. */
  function move(room, state, action, uniform = Math.random()) {
    const from = room.indptr[state * room.A + action], to = room.indptr[state * room.A + action + 1]
    return room.next[from + draw(room.chance.slice(from, to), uniform)]
  }
  function act(room, logPolicy, state, uniform = Math.random()) {
    return draw(Array.from(logPolicy.slice(state * room.A, (state + 1) * room.A), Math.exp), uniform)
  }

  return { customise, fit, draw, move, act }
})()
if (typeof module !== "undefined") module.exports = MEReQ
