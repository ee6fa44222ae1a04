"use strict";
// A placeholder: shows the messages as they are, and sends keys.
const tab = Math.random().toString(36).slice(2);
const show = (id, message) => { document.getElementById(id).textContent = JSON.stringify(message); };
let socket, welcome, mode;
const send = (message) => { if (socket.readyState === 1) socket.send(JSON.stringify(message)); };
function connect() {
  const url = new URL(`ws?tab=${tab}`, location.href);
  url.protocol = "ws:";
  socket = new WebSocket(url);
  socket.onclose = () => setTimeout(connect, 500);
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "welcome") welcome = message;
    else if (message.type === "mode") { mode = message; show("who", message); }
    else if (message.type !== "pong") show(message.type === "frame" ? "frame" : "report", message);
  };
}
function key(event, down) {
  if (event.repeat) return;
  const action = welcome.actions.find((each) => each.key === event.key);
  if (action) send({ type: "act", action: action.action, down });
  else if (!down) return;
  else if (mode.phase === "tutorial") send({ type: "begin" });
  else if (event.key === "Enter") send({ type: "hand_back" });
  else if (event.key === " ") send({ type: "pause", on: !mode.paused });
  else if (event.key === ".") send({ type: "go" });
  else if (event.key === "Backspace") send({ type: "undo", steps: 1 });
  else if (event.key === "l") send({ type: "learn" });
  else if (event.key === "q") send({ type: "stop" });
  event.preventDefault();
}
addEventListener("keydown", (event) => key(event, true));
addEventListener("keyup", (event) => key(event, false));
setInterval(() => send({ type: "ping", t: performance.now() }), 1000);
connect();
