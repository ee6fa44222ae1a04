// The connection to the server: it is opened again for as long as the page lives, and it never lies about being there.

const WAITS = [0.3, 0.6, 1, 2, 4]; // until the next try [s]
const DEAF = 3; // time without an answer after which what is shown may be old [s]

// A name for this tab that outlives a reload. While the page lives it is not in the storage, for a tab that is
// duplicated copies that, and two tabs of one name would take the session from one another for ever.
export function nameTab() {
  let name = null;
  try {
    name = sessionStorage.getItem("tab");
    sessionStorage.removeItem("tab");
    addEventListener("pagehide", () => sessionStorage.setItem("tab", name));
    addEventListener("pageshow", () => sessionStorage.removeItem("tab"));
  } catch {
    // A frame may have no storage: then a reload counts as another tab.
  }
  name ??= Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16)).join("");
  return name;
}

export class Link {
  // onMessage(message) hears what the server says, onChange() that `isLive` or `tries` is another.
  constructor(onMessage, onChange) {
    this.tab = nameTab();
    this.isOpen = false;
    this.isLive = false; // open, and the server has answered lately
    this.isOver = false; // the session has ended: do not connect again
    this.tries = 0;
    this.nextTry = 0; // when [ms of performance.now()]
    this.roundTrips = []; // the latest [ms]
    this.heard = 0;
    this.onMessage = onMessage;
    this.onChange = onChange;
    setInterval(() => this.ping(), 1000);
    this.connect();
  }

  get roundTrip() {
    const sorted = this.roundTrips.slice(-5).sort((a, b) => a - b);
    return sorted.length > 3 ? sorted[Math.floor(sorted.length / 2)] : null; // a page that loads is slow itself
  }

  connect() {
    clearTimeout(this.timer);
    const url = new URL(`ws?tab=${encodeURIComponent(this.tab)}`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.onopen = () => {
      this.isOpen = true;
      this.tries = 0;
      this.heard = performance.now();
      this.update();
      this.ping();
    };
    socket.onmessage = (event) => {
      if (socket !== this.socket) return;
      this.heard = performance.now();
      const message = JSON.parse(event.data);
      if (message.type === "pong") this.roundTrips = [...this.roundTrips.slice(-299), this.heard - message.t];
      else this.onMessage(message);
      this.update();
    };
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.isOpen = false;
      if (!this.isOver) {
        const wait = WAITS[Math.min(this.tries, WAITS.length - 1)] * (0.8 + 0.4 * Math.random()) * 1000;
        this.tries += 1;
        this.nextTry = performance.now() + wait;
        this.timer = setTimeout(() => this.connect(), wait);
      }
      this.update(true);
    };
  }

  send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  ping() {
    this.send({ type: "ping", t: performance.now(), round_trip_ms: this.roundTrips.at(-1) ?? null });
    this.update();
  }

  update(changed = false) {
    const live = this.isOpen && performance.now() - this.heard < DEAF * 1000;
    if (live === this.isLive && !changed) return;
    this.isLive = live;
    this.onChange();
  }
}
