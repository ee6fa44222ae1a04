// The page of a live session: shows what the server says, and tells it what the person wants.

import { boundKey, Hands } from "./hands.js";
import { Link } from "./link.js";
import { drawRates, drawWeight, Films, listChanges, listNumbers, make, percent, scaleOf } from "./report.js";
import { makePainter } from "./scenes.js";
import { fit } from "./shapes.js";

const SPEEDS = [0.25, 0.5, 1, 2, 4, 10];
const SLOW_LINK = 250; // round trip from which turns are better than real time [ms]
const GLIDE = 600; // longest time that a step is drawn over [ms]
const ARROW_SIGNS = { ArrowUp: "↑", ArrowRight: "→", ArrowDown: "↓", ArrowLeft: "←" };
const KEY_NAMES = { " ": "Space" };

const $ = (id) => document.getElementById(id);
const coarse = matchMedia("(pointer: coarse)");
const stillMotion = matchMedia("(prefers-reduced-motion: reduce)");

// What the server said last.
export const state = { welcome: null, mode: null, frame: null, before: null, reports: new Map(), trail: [] };
let painter, hands, films;
let arrived = 0; // when the last frame came [ms]
let isDirty = true; // whether the scene must be drawn again
let showsArrows = false;
let wasRunning = false; // whether the session ran when the help was opened

export const link = new Link(hear, showAll);

// --- What the server says -------------------------------------------------------------------------------------

function hear(message) {
  const old = state.mode;
  if (message.type === "welcome") begin(message);
  else if (!state.welcome) return; // news from before this tab was greeted; the greeting repeats it
  else if (message.type === "frame") takeFrame(message);
  else if (message.type === "mode") takeMode(message, old);
  else if (message.type === "report") takeReport(message);
  else if (message.type === "notice") notice(message.text, message.wrong);
}

function begin(welcome) {
  const isNew = !state.welcome;
  Object.assign(state, { welcome, frame: null, before: null, trail: [] });
  state.reports.clear();
  hands?.forget();
  if (!isNew) return;
  painter = makePainter(welcome.scene, welcome.actions);
  hands = new Hands(link, welcome, mayAct, wake);
  films = new Films(painter, [$("before"), $("after")], welcome.rate);
  $("task").textContent = welcome.task;
  $("later").hidden = !welcome.method; // a session of a study cannot be continued
  document.title = `Teach: ${welcome.task}`;
  document.body.classList.toggle("replay", welcome.replay);
  if (!welcome.replay) buildPad(welcome);
  if (!welcome.discrete) bindDrag();
  for (const { name, paint } of painter.legend) $("legend").append(drawLegend(name, paint));
  tellStory(welcome);
  layOut();
}

function takeFrame(frame) {
  const last = state.frame;
  const follows = last && !frame.rewound && frame.episode === last.episode && frame.t === last.t + 1;
  state.before = follows ? last.scene : null;
  const step = { moving: frame.scene, person: frame.by === "person" };
  if (frame.t === 0 || !last || frame.episode !== last.episode) state.trail = [step];
  else state.trail = [...state.trail.slice(0, frame.t), step];
  state.frame = frame;
  arrived = performance.now();
  isDirty = true;
  if (frame.ended) announce(endWords(frame));
  showNext();
  showRound();
}

function takeMode(mode, old) {
  state.mode = mode;
  for (const number of [...state.reports.keys()]) if (number > mode.version) state.reports.delete(number);
  if (mode.controller !== link.tab) hands?.forget();
  if (mode.phase === "finished") link.isOver = true;
  isDirty = true;
  showAll();
  if (old) announceChange(old, mode);
}

function takeReport(report) {
  state.reports.set(report.round, report);
  showReport();
  const changes = listChanges(report.weights).map((item) => item.textContent);
  announce(`It learned from round ${report.round}. You drove ${percent(report.rate)} of the steps. ${changes.slice(0, 2).join(". ")}`);
}

function announceChange(old, mode) {
  if (mode.phase === "finished") announce("The session has ended.");
  else if (mode.controller !== old.controller) announce(whoWords().join(". "));
  else if (mode.person !== old.person) announce(mode.person ? "You drive." : "The policy drives.");
  else if (mode.paused !== old.paused) announce(mode.paused ? `Paused. ${mode.why}` : "Resumed.");
  else if (mode.learning !== old.learning && mode.learning) announce("The policy is learning. You can keep driving.");
}

// --- Words ----------------------------------------------------------------------------------------------------

let said = 0;
let saying;

// Say something to a screen reader: the latest only, and at most every second.
function announce(text) {
  clearTimeout(saying);
  saying = setTimeout(() => {
    said = performance.now();
    $("announcer").textContent = text;
  }, Math.max(50, said + 1000 - performance.now()));
}

let hiding;

export function notice(text, wrong = false) {
  const sentence = text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  $("notice").textContent = sentence;
  $("notice").classList.toggle("wrong", wrong);
  $("notice").hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => ($("notice").hidden = true), 7000);
  announce(sentence);
}

const keyName = (key) => ARROW_SIGNS[key] ?? KEY_NAMES[key] ?? key.toUpperCase();
const isMine = () => state.mode?.controller === link.tab;
const isDriving = () => state.mode?.phase === "driving" && link.isLive;
const mayAct = () => isDriving() && isMine() && !state.welcome.replay && !document.querySelector("dialog[open]");

// Who is in control, and what this tab can do about it.
function whoWords() {
  const { mode, welcome } = state;
  if (mode?.phase === "finished") return ["Finished", "You can close this tab."];
  if (!link.isLive || !mode) return ["Not connected", "What you see is not live."];
  if (welcome.replay) return [mode.person ? "A person drives" : "The policy drives", `This is a recording. ${mode.paused ? "It is paused." : ""}`];
  if (!mode.controller) return [mode.person ? "Nobody drives" : "The policy drives", "No tab is in control."];
  if (!isMine()) return [mode.person ? "Somebody else drives" : "The policy drives", "Another tab is in control. Here you can only watch."];
  if (mode.paused && mode.phase === "driving") return [mode.person ? "You drive" : "The policy drives", pauseWords(mode)];
  if (!mode.person) return ["The policy drives", mode.paused ? "" : takeoverWords()];
  if (coarse.matches) return ["You drive", mode.pace === "turns" ? "Each press is one step." : "Hold a button to act."];
  if (mode.pace === "turns") return ["You drive", "It waits for you. Each press is one step. Enter hands back."];
  return ["You drive", mode.release === "key" ? "Hold keys to act. Enter hands back." : "Let go to hand back."];
}

function takeoverWords() {
  if (coarse.matches) return "Press a button below to take over.";
  const arrows = state.welcome.actions.some((each) => ARROW_SIGNS[each.key]);
  return `Press ${arrows ? "an arrow" : "an action"} key to take over.`;
}

function endWords({ success, scene }) {
  if (scene.crashed || scene.cars?.[0][3]) return "A crash. The next drive begins.";
  if (success === null) return "This drive is over. The next one begins.";
  return success ? "Done: it reached its goal. The next one begins." : "Time is up. The next one begins.";
}

// The action that is nearest to what is proposed, in words.
function wordsOf(action) {
  const { actions, discrete } = state.welcome;
  if (discrete) {
    const named = actions.find((each) => each.action === action);
    return named ? `${named.name} ${ARROW_SIGNS[named.key] ?? ""}`.trim() : `action ${action}`;
  }
  const parts = actions.filter((each) => each.action.reduce((sum, value, axis) => sum + value * action[axis], 0) > 0.25);
  return parts.map((each) => each.name).join(", ") || "stay still";
}

function tellStory({ story, actions, discrete }) {
  $("story").textContent = story[0] ?? "A policy drives by itself. You see what it does.";
  $("wish").textContent = story[1] ?? "Perhaps you want it to behave another way.";
  for (const part of document.querySelectorAll(".for-keys")) part.hidden = coarse.matches;
  const keys = $("help-keys");
  if (coarse.matches) {
    keys.append(discrete ? "press a framed button below the picture." : "hold a framed button below, or drag the picture.");
    return;
  }
  const arrows = actions.filter((each) => ARROW_SIGNS[each.key]);
  if (arrows.length) keys.append(discrete ? "press " : "hold ", ...arrows.flatMap((each) => [make("kbd", {}, keyName(each.key)), " "]));
  const others = actions.filter((each) => !ARROW_SIGNS[each.key]);
  if (others.length) keys.append(arrows.length ? "or " : "", ...others.flatMap((each) => [make("kbd", {}, keyName(each.key)), ` (${each.name}) `]));
  keys.append(discrete ? "or the buttons." : "or drag the picture, or use the buttons.");
}

// --- What is shown --------------------------------------------------------------------------------------------

function showAll() {
  if (!state.mode) {
    showWho();
    showConnection();
    return;
  }
  showWho();
  showConnection();
  showVeil();
  showControls();
  showNext();
  showRound();
  showReport();
  showHelp();
  isDirty = true;
}

function showWho() {
  const { mode, welcome } = state;
  const [words, hint] = whoWords();
  $("who-words").textContent = words;
  $("hint").textContent = hint;
  const nobody = !link.isLive || !mode || mode.phase === "finished";
  $("who").className = nobody ? "nobody" : mode.person ? "person" : "policy";
  $("stage").className = $("who").className;
  $("claim").hidden = nobody || isMine() || welcome.replay;
}

function showConnection() {
  const trip = link.roundTrip;
  $("connection").textContent = link.isOver ? "" : !link.isLive ? "no connection" : trip === null ? "" : `round trip ${Math.round(trip)} ms`;
}

// What lies over a picture that is not live: why.
function showVeil() {
  const { mode } = state;
  $("stage").classList.toggle("stale", !link.isLive && !link.isOver);
  $("veil").hidden = link.isLive && !link.isOver;
  $("connect").hidden = link.isOpen || link.isOver;
  $("paused").hidden = !link.isLive || mode.phase !== "driving" || !mode.paused;
  $("go-on").hidden = $("paused").hidden || !isMine();
  $("veil-words").textContent = veilWords();
}

function veilWords() {
  const { welcome } = state;
  const later = welcome?.method && !welcome.replay ? " Run the same command to continue." : "";
  if (link.isOver) return welcome?.replay ? "Finished." : `Finished. What it learned is saved.${later}`;
  if (link.isOpen) return "The server does not answer. This picture is old.";
  const seconds = Math.max(0, Math.ceil((link.nextTry - performance.now()) / 1000));
  const help = link.tries > 6 ? " If the server was started again, open the new link that it printed." : "";
  return `Not connected. This picture is old. Trying again${seconds ? ` in ${seconds} s` : ""}.${help}`;
}

function pauseWords({ why }) {
  const reason = why ? `${why.charAt(0).toUpperCase()}${why.slice(1)}. ` : "";
  return `Paused. ${reason}${coarse.matches ? "" : "Press Space to resume."}`;
}

function showControls() {
  const { mode } = state;
  const can = isDriving() && isMine();
  const allow = { "hand-back": can && mode.person, pause: can, undo: can && mode.can_undo, go: can && mode.paused };
  Object.assign(allow, { learn: can && mode.can_learn, "undo-update": can && mode.can_undo_update });
  Object.assign(allow, { save: can && mode.version > 0, "open-stop": can });
  for (const [id, allowed] of Object.entries(allow)) setEnabled($(id), allowed);
  $("pause").querySelector("b").textContent = mode.paused ? "Resume" : "Pause";
  for (const button of $("speeds").querySelectorAll("button")) {
    setEnabled(button, can);
    button.setAttribute("aria-pressed", String(Number(button.dataset.speed) === mode.speed));
  }
  for (const button of $("settings").querySelectorAll("button")) {
    setEnabled(button, can);
    button.setAttribute("aria-pressed", String([mode.pace, mode.release].includes(button.dataset.pace ?? button.dataset.release)));
  }
  for (const button of $("pad").querySelectorAll("button")) setEnabled(button, can);
}

// A button that cannot be used keeps the focus that it may have.
function setEnabled(button, enabled) {
  button.setAttribute("aria-disabled", String(!enabled));
}

const isEnabled = (button) => button.getAttribute("aria-disabled") !== "true";

function showNext() {
  const { frame, mode } = state;
  if (!frame || !mode) return;
  const next = $("next-words");
  next.replaceChildren();
  if (frame.ended) next.append(endWords(frame));
  else if (frame.proposal !== null) next.append(mode.person ? "Policy would: " : "Next: ", make("b", {}, wordsOf(frame.proposal)));
  const runs = link.isLive && mode.phase === "driving" && !mode.paused && !frame.ended;
  const clocked = runs && !(mode.person && mode.pace === "turns");
  const interval = 1000 / (state.welcome.rate * mode.speed);
  $("due").hidden = !clocked || interval < 250;
  const label = painter.describe(frame.scene);
  $("scene").setAttribute("aria-label", `${label} ${next.textContent}.`);
}

function showRound() {
  const { frame, mode } = state;
  if (!frame || !mode) return;
  const { round, round_steps: steps, round_person: person, steps_per_round: whole } = frame;
  $("round-title").textContent = `Round ${round}`;
  const [policy, mine] = $("share").children;
  policy.style.width = `${(100 * (steps - person)) / Math.max(steps, whole)}%`;
  mine.style.width = `${(100 * person) / Math.max(steps, whole)}%`;
  const count = mode.learning ? `${steps} steps so far` : `${steps} of ${whole} steps`;
  const words = `${count}. You drove ${steps ? `${percent(person / steps)} of them` : "none"}.`;
  $("round-words").textContent = steps >= whole && !mode.learning ? `${words} It learns when this drive ends.` : words;
  $("share").setAttribute("aria-label", words);
  const learning = `It is learning from round ${round - 1}. You can keep driving: until it is done, the previous policy drives.`;
  const waiting = "The computer is still getting ready to learn. Meanwhile you can drive.";
  $("learn-words").textContent = mode.learning ? learning : mode.ready ? "" : waiting;
  $("learn-words").className = mode.learning || !mode.ready ? "busy" : "";
}

// --- The report -----------------------------------------------------------------------------------------------

let reported = "";

function showReport() {
  const report = [...state.reports.values()].at(-1);
  $("report").hidden = !report;
  $("empty").hidden = Boolean(report);
  const key = report ? `${report.round} ${report.rates} ${report.update_seconds}` : "";
  if (key === reported) return;
  reported = key;
  if (!report) {
    films.show([]);
    return;
  }
  const rates = report.rates;
  $("report-title").textContent = `What it learned in round ${report.round}`;
  $("report-words").textContent = report.takeovers ? rateWords(rates) : "You did not take over, so it learned little.";
  const changes = listChanges(report.weights);
  $("changes").replaceChildren(...(changes.length ? changes : [make("li", {}, "Nothing changed much.")]));
  $("chart").replaceChildren(drawRates(rates));
  $("weights-part").hidden = !report.weights;
  if (report.weights) {
    const largest = scaleOf(report.weights);
    $("weights").tBodies[0].replaceChildren(...report.weights.map((weight) => drawWeight(weight, largest)));
  }
  const unsure = report.unsure.replaceAll("+-", "±");
  const where = report.telling === null ? "" : ` A takeover at the ◆ in the film "After" (picture ${report.telling + 1}) would teach it most.`;
  $("unsure").textContent = unsure ? `${unsure.charAt(0).toUpperCase()}${unsure.slice(1)}.${where}` : where;
  $("numbers").replaceChildren(...listNumbers(report));
  showFilms(report);
}

function rateWords(rates) {
  const now = `You drove ${percent(rates.at(-1))} of the steps`;
  if (rates.length === 1) return `${now}.`;
  const before = rates.at(-2);
  const than = rates.at(-1) < before ? "less than" : rates.at(-1) > before ? "more than" : "as much as";
  return `${now}: ${than} in the round before (${percent(before)}).`;
}

function showFilms(report) {
  const both = report.before?.scenes.length && report.after?.scenes.length;
  $("films").hidden = !both;
  $("arrows").hidden = !report.arrows;
  films.show(both ? [report.before, report.after] : [], report.telling);
  if (!both) return;
  const nameOf = (version) => (version ? `policy ${version}` : "first policy");
  for (const [id, word, film] of [["before", "Before", report.before], ["after", "After", report.after]]) {
    $(`${id}-words`).textContent = `${word}: ${nameOf(film.version)}`;
    $(id).setAttribute("aria-label", `${word}: a drive of ${nameOf(film.version)}. At its end: ${painter.describe(film.scenes.at(-1))}`);
  }
  showPlay();
}

function showPlay() {
  $("play").textContent = films.plays ? "Stop the films" : "Play the films";
}

// --- Help -----------------------------------------------------------------------------------------------------

function showHelp() {
  const { mode, welcome } = state;
  const first = mode.phase === "tutorial" && !welcome.replay;
  $("help-watching").hidden = !first || isMine();
  setEnabled($("begin"), !first || isMine());
  $("begin").textContent = first ? "Start" : "Continue";
  if (first && !$("help").open && link.isLive) $("help").showModal();
  if (!first && $("help").open && $("help").dataset.first === "true") $("help").close();
  $("help").dataset.first = String(first);
}

function openHelp() {
  wasRunning = isDriving() && isMine() && !state.mode.paused;
  if (wasRunning) link.send({ type: "pause", on: true });
  $("help").showModal();
}

function closeHelp() {
  if (!isEnabled($("begin"))) return;
  if (state.mode.phase === "tutorial") link.send({ type: "begin" });
  else if (wasRunning) link.send({ type: "pause", on: false });
  wasRunning = false;
  $("help").close();
  $("stage").focus({ preventScroll: true });
}

// --- The scene ------------------------------------------------------------------------------------------------

// As wide as there is room for, but no higher than leaves room for the controls.
function layOut() {
  if (!painter) return;
  const narrow = innerWidth < 900;
  const tallest = Math.max(220, innerHeight * (narrow ? 0.5 : 0.56));
  const width = Math.min($("driving").clientWidth - 8, tallest * painter.aspect);
  $("stage").style.width = `${Math.floor(width)}px`;
  $("scene").style.height = `${Math.floor((width - 8) / painter.aspect)}px`;
  isDirty = true;
}

function drawScene(now) {
  const { frame, before, mode, welcome, trail } = state;
  if (!frame || !mode) return;
  const interval = 1000 / (welcome.rate * mode.speed);
  const glide = stillMotion.matches || interval < 120 ? 0 : Math.min(GLIDE, interval * 0.6);
  const share = glide && before ? Math.min(1, (now - arrived) / glide) : 1;
  const report = [...state.reports.values()].at(-1);
  const action = welcome.discrete ? welcome.actions.find((each) => each.action === frame.proposal) : null;
  const { context, width, height } = fit($("scene"), painter.aspect);
  const again = painter.draw(context, width, height, {
    moving: frame.scene,
    before,
    share,
    proposal: frame.proposal,
    action,
    person: mode.person,
    rate: welcome.rate,
    trail: trail.slice(-12),
    arrows: showsArrows ? report?.arrows : null,
    heat: showsArrows ? report?.heat : null,
  });
  isDirty = share < 1 || Boolean(again);
  if (!$("due").hidden) {
    const due = Math.min(1, (now - arrived) / interval);
    $("due").firstElementChild.style.width = `${100 * due}%`;
    isDirty ||= due < 1;
  }
}

function paint(now) {
  requestAnimationFrame(paint);
  if (isDirty) drawScene(now);
  if (films && !$("report").hidden) films.draw(now, fit);
  if (hands && mayAct()) hands.poll(toVelocity, doWish);
}

// --- Acting ---------------------------------------------------------------------------------------------------

// Turn by turn, a press also ends a pause: the step is what was asked for.
function wake() {
  const { mode } = state;
  if (mode.paused && mode.pace === "turns") link.send({ type: "pause", on: false });
  if (mode.pace === "real time" && link.roundTrip > SLOW_LINK && !state.saidSlow) {
    state.saidSlow = true;
    notice(`The connection is slow (${Math.round(link.roundTrip)} ms). Under "More settings" it can wait for you`);
  }
}

function buildPad({ actions, discrete }) {
  const pad = $("pad");
  const spots = { ArrowUp: "up", ArrowLeft: "left", ArrowDown: "down", ArrowRight: "right" };
  const names = discrete ? "Press to take over" : "Hold to take over";
  pad.setAttribute("aria-label", names);
  // By axis, upward before downward: the buttons beside the arrows are read from left to right.
  const sum = (action) => action.reduce((before, value) => before + value, 0);
  const rank = ({ action }) => (discrete ? action : action.findIndex(Boolean) - 0.4 * sum(action));
  const others = actions.filter((each) => !spots[each.key]).sort((a, b) => rank(a) - rank(b));
  for (const { name, key, action } of [...actions.filter((each) => spots[each.key]), ...others]) {
    const button = make("button", { type: "button", class: spots[key] ?? "other" }, make("b", {}, name), " ", make("kbd", {}, keyName(key)));
    hands.bindButton(button, action);
    pad.append(button);
  }
  pad.classList.toggle("crossed", actions.some((each) => spots[each.key]));
}

function toVelocity(right, up, shift) {
  if (painter.drag) return painter.drag(right, up, shift);
  const axes = [["ArrowRight", right], ["ArrowUp", up]].map(([key, share]) => [hands.find(key)?.action, share]);
  return state.welcome.actions[0].action.map((_, axis) => axes.reduce((sum, [action, share]) => sum + (action?.[axis] ?? 0) * share, 0));
}

function bindDrag() {
  $("stage").classList.add("drags");
  hands.bindDrag($("scene"), toVelocity, (from, to) => {
    const sign = $("drag");
    sign.toggleAttribute("hidden", !from);
    if (!from) return;
    const box = $("stage").getBoundingClientRect();
    const [[x0, y0], [x1, y1]] = [from, to].map(([x, y]) => [x - box.left, y - box.top]);
    for (const circle of sign.querySelectorAll("circle")) setAll(circle, { cx: x0, cy: y0 });
    setAll(sign.querySelector(".knob"), { cx: x1, cy: y1 });
    setAll(sign.querySelector("line"), { x1: x0, y1: y0, x2: x1, y2: y1 });
  });
}

const setAll = (element, attributes) => Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));

function drawLegend(name, paintTile) {
  const canvas = make("canvas", { width: 44, height: 44, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.scale(2, 2);
  paintTile(context, 22);
  return make("li", {}, canvas, ` ${name}`);
}

const WISHES = {
  "hand back": () => state.mode.person && link.send({ type: "hand_back" }),
  pause: () => link.send({ type: "pause", on: !state.mode.paused }),
  undo: () => state.mode.can_undo && link.send({ type: "undo", steps: 1 }),
  go: () => state.mode.paused && link.send({ type: "go" }),
};

function doWish(wish) {
  if (isDriving() && isMine()) WISHES[wish]();
}

const KEYS = { Enter: "hand back", " ": "pause", Backspace: "undo", ".": "go" };

function onKey(event) {
  if (!state.mode || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return; // it has keys of its own
  const onButton = event.target.closest?.("button, summary, a");
  if (onButton && (event.key === "Enter" || event.key === " ")) return; // these press it
  const action = !state.welcome.replay && hands.find(boundKey(event.key, state.welcome.actions));
  const speed = SPEEDS[Number(event.key) - 1];
  if (action) {
    if (!event.repeat) hands.press(event.code, action.action);
  } else if (KEYS[event.key]) {
    if (!event.repeat || event.key === "Backspace") doWish(KEYS[event.key]);
  } else if (speed) {
    if (isDriving() && isMine()) link.send({ type: "pace", speed });
  } else return;
  event.preventDefault();
}

function bindAll() {
  addEventListener("keydown", onKey);
  addEventListener("keyup", (event) => hands?.release(event.code));
  addEventListener("blur", () => hands?.releaseAll());
  document.addEventListener("visibilitychange", () => document.hidden && hands?.releaseAll());
  addEventListener("resize", layOut);
  SPEEDS.forEach((speed, k) => {
    const words = `${{ 0.25: "¼", 0.5: "½" }[speed] ?? speed}×`;
    const button = make("button", { type: "button", "data-speed": speed, "aria-label": `Speed ${speed}`, title: `key ${k + 1}` }, words);
    $("speeds").append(button);
  });
  const sends = {
    learn: { type: "learn" }, "undo-update": { type: "undo_update" }, save: { type: "save_policy" }, claim: { type: "claim" },
  };
  const does = {
    "hand-back": () => doWish("hand back"), pause: () => doWish("pause"), undo: () => doWish("undo"), go: () => doWish("go"),
    "open-help": openHelp, begin: closeHelp,
    "open-stop": () => $("stopping").showModal(),
    "keep-on": () => $("stopping").close(),
    "go-on": () => doWish("pause"),
    connect: () => link.connect(),
    stop: () => link.send({ type: "stop" }) && $("stopping").close(),
    play: () => { films.toggle(); showPlay(); },
    arrows: () => {
      showsArrows = !showsArrows;
      $("arrows").setAttribute("aria-pressed", String(showsArrows));
      $("plan-words").hidden = !showsArrows;
      isDirty = true;
    },
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (isEnabled(button)) {
      if (sends[button.id]) link.send(sends[button.id]);
      does[button.id]?.();
      const { speed, pace, release } = button.dataset;
      if (speed) link.send({ type: "pace", speed: Number(speed) });
      if (pace) link.send({ type: "pace", pace });
      if (release) link.send({ type: "pace", release });
    }
    // After a click the keys go to the robot again; who came by Tab stays.
    if (event.detail > 0 && !document.querySelector("dialog[open]")) $("stage").focus({ preventScroll: true });
  });
  $("help").addEventListener("cancel", (event) => { event.preventDefault(); closeHelp(); });
  setInterval(() => { showConnection(); if (!link.isLive) showVeil(); }, 500);
}

bindAll();
new ResizeObserver(layOut).observe($("driving"));
requestAnimationFrame(paint);
