// What the person does with keys, buttons, drags and sticks, told to the server as actions.

const ARROWS = ["ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"];
const DRAG = 90; // length of a drag that is full speed [px]
const DEAD = 0.25; // tilt of a stick that counts as none, of 1
const STEP = 0.02; // change of a velocity that is worth a message, of 1

// The key that an action is bound to, for a key of the keyboard: WASD are the arrows where they are nothing else.
export function boundKey(key, actions) {
  const name = key.length === 1 ? key.toLowerCase() : key;
  if (actions.some((each) => each.key === name)) return name;
  const taken = actions.some((each) => "wasd".includes(each.key));
  return taken || name.length > 1 ? name : (ARROWS["wasd".indexOf(name)] ?? name);
}

export class Hands {
  // mayAct() says whether this tab may act now; onAct() is called before something is done.
  constructor(link, welcome, mayAct, onAct) {
    this.link = link;
    this.actions = welcome.actions;
    this.discrete = welcome.discrete;
    this.mayAct = mayAct;
    this.onAct = onAct;
    this.held = new Map(); // what is held: a name of the key, button or stick -> its action
    this.sent = null; // velocity that the server knows
    this.fresh = 0; // keystrokes that it has not been told yet
    this.buttons = new Map(); // of a gamepad, which were down
  }

  find(key) {
    return this.actions.find((each) => each.key === key);
  }

  press(name, action) {
    if (!this.mayAct() || this.held.has(name)) return;
    this.held.set(name, action);
    this.fresh += 1;
    if (this.discrete) this.link.send({ type: "act", action, down: true });
    else this.sendVelocity();
    this.onAct();
  }

  release(name) {
    if (!this.held.has(name)) return;
    const action = this.held.get(name);
    this.held.delete(name);
    if (!this.discrete) this.sendVelocity();
    else if (![...this.held.values()].includes(action)) this.link.send({ type: "act", action, down: false });
  }

  releaseAll() {
    for (const name of [...this.held.keys()]) this.release(name);
  }

  // Forget what is held without saying so: the connection, or control, is gone.
  forget() {
    this.held.clear();
    this.sent = null;
  }

  // A velocity that changes while it is held, by a drag or a stick.
  steer(name, velocity) {
    if (!this.held.has(name)) this.press(name, velocity);
    else {
      this.held.set(name, velocity);
      this.sendVelocity();
    }
  }

  sendVelocity() {
    const sum = this.actions[0].action.map((_, axis) => {
      const total = [...this.held.values()].reduce((before, each) => before + each[axis], 0);
      return Math.max(-1, Math.min(1, Math.round(total * 100) / 100));
    });
    const far = !this.sent || sum.some((value, axis) => Math.abs(value - this.sent[axis]) > STEP);
    if (!far && this.held.size) return;
    this.sent = this.held.size ? sum : null;
    const moves = sum.some(Boolean);
    this.link.send({ type: "act", action: sum, down: moves, keys: this.fresh });
    this.fresh = 0;
  }

  // A press of a button on the screen that is let go of at once, by the keyboard or a screen reader.
  tap(action) {
    this.press("tap", action);
    if (this.discrete) this.release("tap");
    else setTimeout(() => this.release("tap"), 150);
  }

  // Let a button of the page hold an action for as long as it is pressed.
  bindButton(button, action) {
    const name = `button ${button.textContent}`;
    button.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      button.setPointerCapture(event.pointerId);
      this.press(name, action);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"])
      button.addEventListener(kind, () => this.release(name));
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("click", (event) => {
      if (event.detail === 0) this.tap(action); // no pointer: Enter, Space or a screen reader
    });
  }

  // Let drags over an element steer. toVelocity(right, up, shift) says where a drag leads; onDrag(from, to) shows it.
  bindDrag(element, toVelocity, onDrag) {
    let from = null;
    const stop = () => {
      from = null;
      this.release("drag");
      onDrag(null, null);
    };
    element.addEventListener("pointerdown", (event) => {
      if (event.button > 0 || !this.mayAct()) return;
      element.setPointerCapture(event.pointerId);
      from = [event.clientX, event.clientY];
    });
    element.addEventListener("pointermove", (event) => {
      if (!from) return;
      let [x, y] = [event.clientX - from[0], event.clientY - from[1]];
      const length = Math.hypot(x, y);
      if (length < 6 && !this.held.has("drag")) return; // a click
      if (length > DRAG) [x, y] = [(x * DRAG) / length, (y * DRAG) / length];
      this.steer("drag", toVelocity(x / DRAG, -y / DRAG, event.shiftKey));
      onDrag(from, [from[0] + x, from[1] + y]);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"])
      element.addEventListener(kind, () => from && stop());
  }

  // Look at the gamepads, once a picture. onButton(name) hears of "hand back", "undo" and "pause".
  poll(toVelocity, onButton) {
    const pad = navigator.getGamepads?.().find((each) => each?.connected);
    if (!pad) return;
    const wishes = { 0: "hand back", 1: "undo", 9: "pause" };
    for (const [index, wish] of Object.entries(wishes)) {
      const down = Boolean(pad.buttons[index]?.pressed);
      if (down && !this.buttons.get(index)) onButton(wish);
      this.buttons.set(index, down);
    }
    const cross = (plus, minus) => Number(pad.buttons[plus]?.pressed ?? 0) - Number(pad.buttons[minus]?.pressed ?? 0);
    const stick = (axis) => (Math.abs(pad.axes[axis] ?? 0) > DEAD ? pad.axes[axis] : 0);
    const right = cross(15, 14) || stick(0);
    const up = cross(12, 13) || -stick(1);
    if (this.discrete) this.pollDirections(right, up);
    else this.pollSticks(toVelocity(right, up, false), -stick(3), cross(7, 6));
  }

  pollDirections(right, up) {
    const key = Math.abs(right) > Math.abs(up) ? (right > 0 ? "ArrowRight" : "ArrowLeft") : up > 0 ? "ArrowUp" : "ArrowDown";
    const name = Math.max(Math.abs(right), Math.abs(up)) > 0.5 ? `stick ${key}` : null;
    for (const each of this.held.keys()) if (each.startsWith("stick") && each !== name) this.release(each);
    const action = name && this.find(key);
    if (action) this.press(name, action.action);
  }

  pollSticks(level, height, grip) {
    const velocity = [...level];
    if (velocity.length > 2) velocity[2] += height;
    if (velocity.length > 3) velocity[3] += grip;
    if (velocity.some(Boolean)) this.steer("stick", velocity);
    else this.release("stick");
  }
}
