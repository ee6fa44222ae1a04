// The page of a study: forms between live sessions, which run in a frame. It knows no method by name.

import { Link } from "./link.js";
import { Films, make } from "./report.js";
import { makePainter } from "./scenes.js";
import { fit } from "./shapes.js";

// What the six scales of the NASA-TLX ask, and their ends.
const QUESTIONS = {
  "mental demand": ["How mentally demanding was the task?", "very low", "very high"],
  "physical demand": ["How physically demanding was the task?", "very low", "very high"],
  "temporal demand": ["How hurried or rushed was the pace of the task?", "very low", "very high"],
  performance: ["How successful were you in accomplishing what you were asked to do?", "perfect", "failure"],
  effort: ["How hard did you have to work to accomplish your level of performance?", "very low", "very high"],
  frustration: ["How insecure, discouraged, irritated, stressed, and annoyed were you?", "very low", "very high"],
};
const STEP = 5; // of a scale from 0 to 100

const $ = (id) => document.getElementById(id);

export const state = { show: null, start: 0 };
export const link = new Link(hear, showAll);
let films = null;

function hear(message) {
  if (message.type !== "show") return;
  const before = state.show;
  state.show = message;
  state.start = 0;
  if (message.kind === "over") link.isOver = true;
  if (!before || before.stage !== message.stage || before.kind !== message.kind) build(message);
  if (message.link && $("frame").dataset.link !== message.link) openSession(message.link);
  showAll();
}

function showAll() {
  const { show } = state;
  const live = link.isLive || link.isOver;
  for (const section of document.querySelectorAll("main > section")) section.hidden = true;
  // A session has a connection of its own, and says itself if that is gone.
  const kind = show && (live || isSession(show)) ? (isSession(show) ? "session" : show.kind) : "waiting";
  $(kind).hidden = false;
  $("leave").hidden = !show || show.kind === "over";
  if (!show) return;
  $("where").textContent = show.kind === "over" ? "" : `Step ${show.stage + 1} of ${show.stages}`;
  $("session-words").textContent = sessionWords(show);
}

const isSession = (show) => show.kind === "practice" || show.kind === "session";

function sessionWords(show) {
  if (!isSession(show)) return "";
  if (!show.link) return "The next robot is getting ready.";
  return show.kind === "practice" ? "Practice: this session does not count." : "Teach this robot as well as you can.";
}

function openSession(url) {
  const frame = $("frame");
  frame.dataset.link = url;
  frame.src = url;
  frame.onload = () => frame.focus();
}

// Fill in what is new in a stage.
function build(show) {
  $("announcer").textContent = { tlx: "Six questions about what you just did.", compare: "Compare two robots.", end: "You are done." }[show.kind] ?? "";
  if (!isSession(show)) {
    $("frame").removeAttribute("src");
    delete $("frame").dataset.link;
  }
  if (show.kind === "consent") {
    $("consent-words").textContent = show.text;
    $("pseudonym").textContent = show.pseudonym;
  } else if (show.kind === "tlx") {
    $("scales").replaceChildren(...show.scales.map(buildScale));
    $("missing").textContent = "";
  } else if (show.kind === "compare") {
    films = new Films(makePainter(show.scene, show.actions), [$("film-a"), $("film-b")], show.rate);
    play();
  } else if (show.kind === "end") $("remember").textContent = show.pseudonym;
  else if (show.kind === "over") $("over-words").textContent = show.text;
  scrollTo(0, 0);
}

function buildScale(name) {
  const [question, low, high] = QUESTIONS[name];
  const input = make("input", { type: "range", min: 0, max: 100, step: STEP, value: 50, name, "aria-label": question });
  const give = () => input.classList.add("given");
  // A slider that was not touched is no answer, so that 50 must be meant.
  for (const kind of ["input", "pointerdown", "keydown"]) input.addEventListener(kind, (event) => event.key !== "Tab" && give());
  const bar = make("div", { class: "scale" }, make("span", {}, low), input, make("span", {}, high));
  return make("fieldset", {}, make("legend", {}, name.charAt(0).toUpperCase() + name.slice(1)), make("p", {}, question), bar);
}

function rate() {
  const inputs = [...$("scales").querySelectorAll("input")];
  const missing = inputs.filter((input) => !input.classList.contains("given"));
  $("missing").textContent = missing.length ? `Please move every slider once: ${missing.map((input) => input.name).join(", ")}.` : "";
  if (missing.length) missing[0].focus();
  else reply({ scores: inputs.map((input) => Number(input.value)) });
}

const reply = (what) => link.send({ type: "reply", stage: state.show.stage, ...what });

function play() {
  const pair = state.show.films[state.start];
  films.show(pair.map((scenes) => ({ scenes })));
  $("film-a").setAttribute("aria-label", `A: ${films.painter.describe(pair[0].at(-1))}`);
  $("film-b").setAttribute("aria-label", `B: ${films.painter.describe(pair[1].at(-1))}`);
  $("play").textContent = films.plays ? "Stop the films" : "Play the films";
}

function paint(now) {
  requestAnimationFrame(paint);
  if (films && state.show.kind === "compare" && !$("compare").hidden) films.draw(now, fit);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button.dataset.choice) reply({ choice: button.dataset.choice });
  const does = {
    rated: rate,
    another: () => { state.start = (state.start + 1) % state.show.films.length; play(); },
    play: () => { films.toggle(); play(); },
    leave: () => $("leaving").showModal(),
    stay: () => $("leaving").close(),
    erase: () => { link.send({ type: "erase" }); $("leaving").close(); },
  };
  does[button.id]?.();
});

requestAnimationFrame(paint);
