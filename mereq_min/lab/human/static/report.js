// Shows what came of a round: the rate over time, the weights, what changed, and films.

const SVG = "http://www.w3.org/2000/svg";
const REST = 1000; // time for which the last picture of a film stays [ms]
const LINGER = 1500; // time for which the picture in which a takeover would tell most stays [ms]
const FASTEST = 12; // pictures of a film a second [1/s]

export const percent = (share) => `${Math.round(share * 100)} %`;
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

export function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "rect", "circle", "path", "text", "polyline"].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// The share of steps that the person drove, over the rounds.
export function drawRates(rates) {
  const [width, height, left, bottom] = [340, 130, 40, 24];
  const x = (k) => left + 12 + (rates.length > 1 ? (k * (width - left - 36)) / (rates.length - 1) : 0);
  const y = (rate) => 14 + (1 - rate / top) * (height - 14 - bottom);
  const top = Math.max(0.1, Math.ceil(Math.max(...rates) * 10) / 10);
  const words = rates.map((rate, k) => `round ${k + 1}: ${percent(rate)}`).join(", ");
  const chart = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Share of steps that you drove. ${words}.` });
  for (const value of [0, top / 2, top]) {
    chart.append(make("line", { x1: left, x2: width - 8, y1: y(value), y2: y(value), class: "grid" }));
    chart.append(make("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, percent(value)));
  }
  chart.append(make("polyline", { points: rates.map((rate, k) => `${x(k)},${y(rate)}`).join(" "), class: "curve" }));
  const every = Math.ceil(rates.length / 8);
  for (const [k, rate] of rates.entries()) {
    chart.append(make("circle", { cx: x(k), cy: y(rate), r: 4.5, class: "point" }));
    if ((rates.length - 1 - k) % every === 0) chart.append(make("text", { x: x(k), y: height - 6, "text-anchor": "middle" }, String(k + 1)));
  }
  const last = rates.length - 1;
  const above = y(rates[last]) > 34 ? -10 : 18;
  chart.append(make("text", { x: x(last), y: y(rates[last]) + above, "text-anchor": "middle", class: "value" }, percent(rates[last])));
  return chart;
}

const isSure = ({ theta, error }) => error !== null && Math.abs(theta) > 2 * error;

// A row of the table: the name, a bar from zero with its standard error, and the numbers.
export function drawWeight(weight, largest) {
  const { feature, theta, error } = weight;
  const [width, height] = [180, 26];
  const x = (value) => width / 2 + (Math.max(-1.04, Math.min(1.04, value / largest)) * (width - 12)) / 2;
  const sure = isSure(weight);
  const bar = make("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  bar.append(make("line", { x1: x(0), x2: x(0), y1: 0, y2: height, class: "grid" }));
  bar.append(make("rect", {
    x: Math.min(x(0), x(theta)), y: 6, width: Math.max(1, Math.abs(x(theta) - x(0))), height: 14,
    class: `bar ${theta < 0 ? "less" : "more"} ${sure ? "sure" : "open"}`,
  }));
  if (error !== null) {
    const [from, to] = [x(theta - error), x(theta + error)];
    bar.append(make("path", { d: `M${from} 13H${to}M${from} 9v8M${to} 9v8`, class: "error" }));
  }
  const size = error === null ? "" : ` ±${error.toFixed(2)}`;
  const word = error === null ? "not known yet" : sure ? "sure" : "may be chance";
  return make("tr", {}, make("th", { scope: "row" }, feature), make("td", { class: "bars" }, bar),
    make("td", {}, `${signed(theta)}${size} `, make("span", { class: "small" }, word)));
}

export function scaleOf(weights) {
  return Math.max(0.1, ...weights.map(({ theta, error }) => Math.abs(theta) + Math.min(error ?? 0, Math.abs(theta) + 0.3)));
}

// What changed, the largest change first, in the server's words.
export function listChanges(weights) {
  const sorted = [...(weights ?? [])].sort((a, b) => Math.abs(b.change) - Math.abs(a.change));
  const moved = sorted.filter((each) => Math.abs(each.change) >= 0.005);
  return moved.map((each) => make("li", {}, each.words.split(":")[0], make("span", { class: "small" }, ` ${each.feature} ${signed(each.change)}`)));
}

export function listNumbers(report) {
  const seconds = (value) => `${value.toFixed(1)} s`;
  const rows = [
    ["Steps", report.steps],
    ["Takeovers", report.takeovers],
    ["Time you drove", seconds(report.person_seconds)],
    ["Keystrokes", report.keystrokes],
    ["Your reaction time", report.reaction === null ? "not measured" : seconds(report.reaction)],
    ["Steps before a takeover that count as its cause", report.patience],
    ["Time to learn", seconds(report.update_seconds)],
    ["Round trip to the server", report.round_trip_ms === null ? "not measured" : `${Math.round(report.round_trip_ms)} ms`],
  ];
  return rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]);
}

function drawTelling(context, width) {
  const words = "◆ most informative";
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "top";
  const broad = context.measureText(words).width + 16;
  context.fillStyle = "#171c23";
  context.fillRect((width - broad) / 2, 4, broad, 22);
  context.fillStyle = "#fff";
  context.fillText(words, width / 2, 8);
}

// Two films that run at once, over and over.
export class Films {
  constructor(painter, canvases, rate) {
    this.painter = painter;
    this.canvases = canvases;
    this.interval = 1000 / Math.min(FASTEST, Math.max(2, rate * 1.6));
    this.films = [];
    this.plays = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.begun = 0;
    this.shown = null;
  }

  // Show films; `telling` is the picture of the last one in which a takeover would tell most, or null.
  show(films, telling = null) {
    this.films = films;
    this.telling = telling;
    this.begun = performance.now();
    this.shown = null;
  }

  toggle() {
    this.plays = !this.plays;
    this.begun = performance.now();
    this.shown = null;
  }

  get length() {
    return Math.max(0, ...this.films.map((film) => film.scenes.length));
  }

  // Draw what is due now; resting films show their ends, with the way that led there.
  draw(now, fit) {
    if (!this.length) return;
    const k = this.plays ? this.findPicture(now) : this.length;
    const size = this.canvases.map((canvas) => canvas.clientWidth).join();
    if (this.shown === `${k} ${size}`) return;
    this.shown = `${k} ${size}`;
    for (const [i, film] of this.films.entries()) {
      const scenes = film.scenes.slice(0, k + 1);
      if (!scenes.length) continue;
      const { context, width, height } = fit(this.canvases[i], this.painter.aspect);
      const trail = scenes.map((moving) => ({ moving, person: false }));
      const again = this.painter.draw(context, width, height, { moving: scenes.at(-1), before: null, share: 1, trail, person: false });
      if (again) this.shown = null;
      if (k === this.telling && film === this.films.at(-1)) drawTelling(context, width);
    }
  }

  findPicture(now) {
    const linger = this.telling === null ? 0 : LINGER;
    const time = (now - this.begun) % (this.length * this.interval + linger + REST);
    const reached = this.telling === null ? Infinity : this.telling * this.interval; // when the picture is due
    return Math.floor((time < reached ? time : Math.max(reached, time - linger)) / this.interval);
  }
}
