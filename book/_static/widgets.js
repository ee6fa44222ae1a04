"use strict"
/* What moves in the pages: sliders over maps, steps to go through, and a room to play in. Each widget holds its data. */

const dataOf = widget => JSON.parse(widget.querySelector("script[type='application/json']").textContent)
const bytesOf = base64 => Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))
const find = (widget, name) => widget.querySelector(`[data-part="${name}"]`)

/* Size of a cell on a canvas that is as many cells wide and high as the map [pixels]. */
const CELL = 24

function prepare(canvas, letters) {
  canvas.width = CELL * letters[0].length
  canvas.height = CELL * letters.length
  return canvas.getContext("2d")
}

/* A map as heat, with one range input for each thing that can be chosen. */
function setUpSliders(widget) {
  const { letters, cells, outline, frames, palette, lengths, notes, labels } = dataOf(widget)
  const pen = prepare(widget.querySelector("canvas"), letters), colours = bytesOf(palette)
  const images = frames.map(bytesOf), inputs = [...widget.querySelectorAll("input")]
  const outputs = [...widget.querySelectorAll("output")]
  const isInside = (y, x) => outline.includes(letters[y]?.[x] ?? "#")

  function show() {
    const at = inputs.map(input => Number(input.value))
    const frame = at.reduce((index, value, i) => index * lengths[i] + value, 0)
    pen.clearRect(0, 0, pen.canvas.width, pen.canvas.height)
    cells.forEach(([y, x], s) => {
      pen.fillStyle = `rgb(${colours.subarray(3 * images[frame][s], 3 * images[frame][s] + 3).join()})`
      pen.fillRect(x * CELL, y * CELL, CELL, CELL)
    })
    pen.fillStyle = "#D55E00"
    for (const [y, x] of cells.filter(([y, x]) => isInside(y, x))) {
      if (!isInside(y - 1, x)) pen.fillRect(x * CELL, y * CELL - 1, CELL, 3)
      if (!isInside(y + 1, x)) pen.fillRect(x * CELL, (y + 1) * CELL - 1, CELL, 3)
      if (!isInside(y, x - 1)) pen.fillRect(x * CELL - 1, y * CELL, 3, CELL)
      if (!isInside(y, x + 1)) pen.fillRect((x + 1) * CELL - 1, y * CELL, 3, CELL)
    }
    outputs.forEach((output, i) => { output.textContent = labels[i][at[i]] })
    inputs.forEach((input, i) => input.setAttribute("aria-valuetext", labels[i][at[i]]))
    find(widget, "note").textContent = notes[frame]
  }
  inputs.forEach(input => input.addEventListener("input", show))
  show()
}

/* Panels of which one is shown, with buttons to go on and back. */
function setUpSteps(widget) {
  const panels = [...widget.querySelectorAll("[data-part='panel']")]
  const [back, on] = ["back", "on"].map(name => find(widget, name))
  let at = 0
  function go(to) {
    at = Math.max(0, Math.min(panels.length - 1, to))
    panels.forEach((panel, i) => { panel.hidden = i !== at })
    back.disabled = at === 0
    on.disabled = at === panels.length - 1
    find(widget, "count").textContent = `${at + 1} of ${panels.length}`
  }
  back.addEventListener("click", () => go(at - 1))
  on.addEventListener("click", () => go(at + 1))
  go(0)
}

/* The room of chapter 1: the robot acts, whoever reads takes over with the arrow keys, and theta is fitted. */
class Playroom {
  static KEYS = { ArrowUp: 0, ArrowRight: 1, ArrowDown: 2, ArrowLeft: 3, " ": 4 }
  static PACE = 380 // [ms] from one step of the robot to the next
  static PATIENCE = 1600 // [ms] after the last key until the robot drives again

  constructor(widget) {
    this.widget = widget
    this.room = dataOf(widget)
    this.canvas = widget.querySelector("canvas")
    this.pen = prepare(this.canvas, this.room.letters)
    this.reset()
    find(widget, "run").addEventListener("click", () => this.isRunning ? this.pause() : this.run())
    find(widget, "learn").addEventListener("click", () => this.learn())
    find(widget, "forget").addEventListener("click", () => this.reset())
    for (const button of widget.querySelectorAll("[data-action]")) {
      button.addEventListener("click", () => this.drive(Number(button.dataset.action)))
    }
    this.canvas.addEventListener("keydown", event => {
      if (!(event.key in Playroom.KEYS)) return
      event.preventDefault() // the page stays where it is
      this.drive(Playroom.KEYS[event.key])
    })
  }

  /* Begin anew, with the robot as it came. */
  reset() {
    this.pause()
    this.steps = [] // of the reader, as [state, action]
    this.rounds = []
    this.theta = Array(this.room.K).fill(0)
    this.logPolicy = Float64Array.from(this.room.logPrior)
    this.beginRound()
    this.show()
    this.tell("")
  }

  beginRound() {
    this.rounds.push({ all: 0, own: 0 })
    this.beginEpisode()
  }

  beginEpisode() {
    this.state = MEReQ.draw(this.room.initial, Math.random())
    this.time = 0
    this.isDriven = false
  }

  run() {
    this.isRunning = true
    find(this.widget, "run").textContent = "Pause"
    this.canvas.focus({ preventScroll: true })
    this.wait(Playroom.PACE)
  }

  pause() {
    this.isRunning = false
    clearTimeout(this.timer)
    find(this.widget, "run").textContent = "Start"
  }

  wait(milliseconds) {
    clearTimeout(this.timer)
    this.timer = setTimeout(() => {
      this.isDriven = false
      this.step(MEReQ.act(this.room, this.logPolicy, this.state))
      this.wait(Playroom.PACE)
    }, milliseconds)
  }

  /* A step of the reader's, who keeps the wheel for a moment. */
  drive(action) {
    if (!this.isRunning) return
    this.steps.push([this.state, action])
    this.rounds.at(-1).own++
    this.isDriven = true
    this.step(action)
    this.wait(Playroom.PATIENCE)
  }

  step(action) {
    this.state = MEReQ.move(this.room, this.state, action)
    this.rounds.at(-1).all++
    this.time++
    this.show()
    if (this.time === this.room.horizon) this.beginEpisode()
  }

  learn() {
    if (!this.steps.length) return this.tell("Take over first: there is nothing to learn from yet.")
    const fit = MEReQ.fit(this.room, this.steps, this.theta)
    Object.assign(this, { theta: fit.theta, errors: fit.errors, logPolicy: fit.logPolicy })
    this.beginRound()
    this.show()
    const n = this.steps.length
    this.tell(`Learned from ${n} ${n === 1 ? "step" : "steps"} of yours. The robot now drives by the new policy.`)
    this.canvas.focus({ preventScroll: true })
  }

  tell(message) {
    find(this.widget, "message").textContent = message
  }

  show() {
    this.draw()
    find(this.widget, "rounds").textContent = this.rounds.map(({ all, own }, i) =>
      `Round ${i + 1}: you drove ${own} of ${all} steps${all ? ` (${Math.round(100 * own / all)} %)` : ""}.`).join(" ")
    const cells = find(this.widget, "theta").querySelectorAll("td")
    this.theta.forEach((weight, k) => {
      cells[2 * k].textContent = this.errors && this.rounds.length > 1 ? weight.toFixed(2) : "0"
      cells[2 * k + 1].textContent = this.errors && this.rounds.length > 1 ? `± ${this.errors[k].toFixed(2)}` : ""
    })
  }

  draw() {
    const { pen } = this, { letters, cells, colours } = this.room
    letters.forEach((row, y) => [...row].forEach((letter, x) => {
      pen.fillStyle = colours[letter]
      pen.fillRect(x * CELL, y * CELL, CELL - 1, CELL - 1)
      if (letter === "G") this.drawFlag(y, x)
    }))
    const [y, x] = cells[this.state]
    pen.beginPath()
    pen.arc((x + 0.5) * CELL, (y + 0.5) * CELL, 0.36 * CELL, 0, 2 * Math.PI)
    pen.fillStyle = this.isDriven ? "#E8811C" : "#2654A0"
    pen.fill()
    pen.strokeStyle = "#FFFFFF"
    pen.lineWidth = 2
    pen.stroke()
  }

  drawFlag(y, x) {
    this.pen.fillStyle = "#282C34"
    this.pen.fillRect((x + 0.45) * CELL, (y + 0.2) * CELL, 2, 0.6 * CELL)
    this.pen.fillStyle = "#3E8C4A"
    this.pen.fillRect((x + 0.45) * CELL + 2, (y + 0.2) * CELL, 0.35 * CELL, 0.28 * CELL)
  }
}

document.querySelectorAll(".sliders").forEach(setUpSliders)
document.querySelectorAll(".steps").forEach(setUpSteps)
document.querySelectorAll(".playroom").forEach(widget => { widget.playroom = new Playroom(widget) })
