// Draws states of tasks on a canvas: one painter for each kind of scene that the server knows.
//
// A painter has `aspect` (width by height), `legend` [{name, paint(context, size)}], `describe(moving)` in words,
// and `draw(context, width, height, view)`. A view is {moving, before, share, proposal, action, person, trail, arrows,
// heat, rate}: `share` is how far, of 1, the picture has come from the state `before` to `moving`, `action` the named
// action that is proposed, and `rate` the steps a second.

import { makeArm } from "./arm.js";
import { drawArrow, drawEyes, drawFlag, drawMark, drawRing, INK, mix, PERSON, POLICY } from "./shapes.js";

const WAYS = {
  up: [0, -1], right: [1, 0], down: [0, 1], left: [-1, 0], stay: [0, 0],
  "forward and up": [1, -1], forward: [1, 0], "forward and down": [1, 1], back: [-1, 0],
}; // where actions lead, in cells to the right and down

export function makePainter(still, actions) {
  const makers = { map: makeMap, highway: makeHighway, lanes: makeLanes, shelf: makeShelf, arm: makeArm };
  return (makers[still.kind] ?? makePicture)(still, actions);
}

// --- Maps -----------------------------------------------------------------------------------------------------

const FLOOR = "#f5f2ec";
const TILES = {
  wall: (context, x, y, s) => fill(context, "#4d5563", x, y, s),
  start: (context, x, y, s) => fill(context, "#e3e9f2", x, y, s),
  goal: (context, x, y, s) => {
    fill(context, "#d3ead0", x, y, s);
    drawFlag(context, x + s / 2, y + s / 2, s);
  },
  carpet: (context, x, y, s) => {
    fill(context, "#b9544b", x, y, s);
    context.strokeStyle = "rgba(255,235,220,.55)";
    context.lineWidth = Math.max(1, s * 0.05);
    context.beginPath();
    for (const shift of [0.25, 0.75]) {
      context.moveTo(x + s * shift, y + s * 0.08);
      context.lineTo(x + s * (shift - 0.17), y + s * 0.5);
      context.lineTo(x + s * shift, y + s * 0.92);
    }
    context.stroke();
  },
  puddle: (context, x, y, s) => {
    fill(context, FLOOR, x, y, s);
    context.fillStyle = "#7fb4d8";
    context.beginPath();
    context.ellipse(x + s / 2, y + s / 2, s * 0.42, s * 0.3, 0.2, 0, 7);
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = Math.max(1, s * 0.06);
    context.beginPath();
    context.arc(x + s * 0.42, y + s * 0.52, s * 0.17, 3.4, 4.9);
    context.stroke();
  },
  tiles: (context, x, y, s) => {
    fill(context, "#e2d3ae", x, y, s);
    context.strokeStyle = "#a8966a";
    context.lineWidth = 1;
    context.strokeRect(x + s * 0.1, y + s * 0.1, s * 0.8, s * 0.8);
    context.beginPath();
    context.moveTo(x + s / 2, y + s * 0.1);
    context.lineTo(x + s / 2, y + s * 0.9);
    context.moveTo(x + s * 0.1, y + s / 2);
    context.lineTo(x + s * 0.9, y + s / 2);
    context.stroke();
  },
  pit: (context, x, y, s) => {
    fill(context, FLOOR, x, y, s);
    context.fillStyle = "#2b2f38";
    context.beginPath();
    context.arc(x + s / 2, y + s / 2, s * 0.4, 0, 7);
    context.fill();
    context.fillStyle = "#6a7080";
    context.beginPath();
    context.ellipse(x + s / 2, y + s * 0.34, s * 0.3, s * 0.14, 0, 0, 7);
    context.fill();
  },
};
const OTHERS = ["#cdbfe3", "#f0d58c", "#a9d5c5", "#e5b4c6"]; // grounds of cells that the page does not know

function fill(context, color, x, y, s) {
  context.fillStyle = color;
  context.fillRect(x, y, s, s);
}

function makeMap({ map, legend }) {
  const [rows, columns] = [map.length, map[0].length];
  const strange = Object.keys(legend).filter((letter) => !TILES[legend[letter]]);
  const paintTile = (context, letter, x, y, s) => {
    const known = TILES[legend[letter]];
    if (known) known(context, x, y, s);
    else fill(context, strange.includes(letter) ? OTHERS[strange.indexOf(letter) % OTHERS.length] : FLOOR, x, y, s);
    if (!known && strange.includes(letter)) drawLetter(context, letter, x + s / 2, y + s / 2, s * 0.6);
  };
  const place = ([row, column], s) => [(column + 0.5) * s, (row + 0.5) * s];
  const ground = document.createElement("canvas"); // what stands still, drawn once for each size
  function drawGround(context, width, height, s) {
    const ratio = context.getTransform().a;
    if (ground.width !== Math.round(width * ratio)) {
      [ground.width, ground.height] = [Math.round(width * ratio), Math.round(height * ratio)];
      const own = ground.getContext("2d");
      own.scale(ratio, ratio);
      for (let row = 0; row < rows; row++)
        for (let column = 0; column < columns; column++) {
          paintTile(own, map[row][column], column * s, row * s, s + 0.5);
          if (legend[map[row][column]] === "wall") continue;
          own.strokeStyle = "rgba(29,37,48,.1)";
          own.lineWidth = 1;
          own.strokeRect(column * s, row * s, s, s);
        }
    }
    context.drawImage(ground, 0, 0, width, height);
  }

  return {
    aspect: columns / rows,
    legend: Object.entries(legend).map(([letter, name]) => ({
      name,
      paint: (context, size) => paintTile(context, letter, 0, 0, size),
    })),
    describe: ({ cell: [row, column] }) => {
      const name = legend[map[row][column]];
      return `The robot is in row ${row}, column ${column}${name ? `, on ${name}` : ""}.`;
    },
    draw(context, width, height, { moving, before, share, action, person, trail, arrows, heat }) {
      const s = width / columns;
      drawGround(context, width, height, s);
      if (heat) drawHeat(context, heat, s);
      if (arrows) drawPolicy(context, arrows, s);
      for (const [k, step] of (trail ?? []).entries()) {
        const from = k ? trail[k - 1].moving.cell : step.moving.cell;
        drawTrail(context, place(from, s), place(step.moving.cell, s), s, step.person);
      }
      const from = before?.cell ?? moving.cell;
      const [x, y] = place([mix(from[0], moving.cell[0], share), mix(from[1], moving.cell[1], share)], s);
      const way = action && WAYS[action.name];
      if (way) drawRing(context, x + way[0] * s, y + way[1] * s, s * (way[0] || way[1] ? 0.4 : 0.62));
      drawMark(context, x, y, s * 0.42, person);
      drawEyes(context, x, y, s * 0.4, way ?? [0, 0]);
      if (way && (way[0] || way[1]))
        drawArrow(context, [x + way[0] * s * 0.5, y + way[1] * s * 0.5], [x + way[0] * s * 1.25, y + way[1] * s * 1.25], Math.max(3, s * 0.17));
    },
  };
}

function drawLetter(context, letter, x, y, size) {
  context.fillStyle = INK;
  context.font = `${size}px system-ui, sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(letter, x, y);
}

function drawTrail(context, from, to, s, person) {
  context.strokeStyle = context.fillStyle = person ? PERSON : POLICY;
  context.lineWidth = Math.max(1.5, s * 0.09);
  context.setLineDash(person ? [s * 0.16, s * 0.12] : []);
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
  context.setLineDash([]);
  const radius = s * 0.11;
  context.beginPath();
  if (person) context.rect(to[0] - radius, to[1] - radius, radius * 2, radius * 2);
  else context.arc(...to, radius, 0, 7);
  context.fill();
}

function drawPolicy(context, arrows, s) {
  const ways = Object.values(WAYS); // the actions of maps come first, in their order
  for (const [row, column, action] of arrows) {
    const [x, y, [dx, dy]] = [(column + 0.5) * s, (row + 0.5) * s, ways[action]];
    context.fillStyle = "rgba(15,25,40,.75)";
    context.strokeStyle = "rgba(255,255,255,.8)";
    context.lineWidth = 1;
    context.beginPath();
    if (!dx && !dy) context.arc(x, y, s * 0.1, 0, 7);
    else {
      context.moveTo(x + dx * s * 0.3, y + dy * s * 0.3);
      context.lineTo(x - dx * s * 0.12 - dy * s * 0.18, y - dy * s * 0.12 + dx * s * 0.18);
      context.lineTo(x - dx * s * 0.12 + dy * s * 0.18, y - dy * s * 0.12 - dx * s * 0.18);
      context.closePath();
    }
    context.fill();
    context.stroke();
  }
}

function drawHeat(context, heat, s) {
  const largest = Math.max(1e-9, ...heat.flat().map((value) => Math.abs(value ?? 0)));
  for (const [row, values] of heat.entries())
    for (const [column, value] of values.entries()) {
      if (value === null) continue;
      context.globalAlpha = (0.75 * Math.abs(value)) / largest;
      fill(context, value > 0 ? POLICY : PERSON, column * s, row * s, s);
      context.globalAlpha = 1;
    }
}

// --- Roads ----------------------------------------------------------------------------------------------------

const SIGHT = 75; // length of the road that is shown [m]
const BEHIND = 0.22; // of which lies behind the ego

function makeHighway(still) {
  const { lanes, lane_width: lane, length, width: broad } = still;
  const road = lanes * lane;
  return {
    aspect: 3,
    legend: [],
    describe({ cars }) {
      const laneOf = ([, y]) => Math.max(1, Math.min(lanes, Math.round(y / lane) + 1));
      const ahead = cars.slice(1).filter((car) => car[0] > cars[0][0] && laneOf(car) === laneOf(cars[0]));
      const gap = Math.min(...ahead.map((car) => car[0] - cars[0][0]));
      const text = `Your car is in lane ${laneOf(cars[0])} of ${lanes}, counted from the top.`;
      return Number.isFinite(gap) ? `${text} The next car in this lane is ${Math.round(gap)} metres ahead.` : text;
    },
    draw(context, width, height, view) {
      const scale = Math.max(width / SIGHT, Math.min(5, height / road / 1.7)); // cars stay large enough to see
      const middle = height / 2 - ((lanes - 1) / 2) * lane * scale;
      const cars = blend(view);
      const [x0] = cars[0];
      const put = ([x, y]) => [width * BEHIND + (x - x0) * scale, middle + y * scale];
      drawRoad(context, width, height, { top: middle - (lane / 2) * scale, road: road * scale, lane: lane * scale, lanes, shift: x0 * scale });
      const size = [length * scale, broad * scale];
      for (const car of cars.slice(1)) drawCar(context, put(car), size, car, "#e9ebee", "#7b8493");
      drawIntent(context, put(cars[0]), size, view.action, { lane: lane * scale, top: middle, bottom: middle + (lanes - 1) * lane * scale });
      drawCar(context, put(cars[0]), size, cars[0], view.person ? PERSON : POLICY, "#fff");
      const [x, y] = put(cars[0]);
      drawMark(context, x - size[0] * 0.18, y, size[1] * 0.26, view.person);
      if (view.before && view.rate) drawCaption(context, `${Math.round((view.moving.cars[0][0] - view.before.cars[0][0]) * view.rate)} m/s`, height);
    },
  };
}

function blend({ moving, before, share }) {
  if (!before || share >= 1) return moving.cars;
  return moving.cars.map((car, i) => {
    const k = moving.numbers && before.numbers ? before.numbers.indexOf(moving.numbers[i]) : i;
    const from = before.cars[k];
    return from ? [0, 1, 2].map((axis) => mix(from[axis], car[axis], share)).concat(car[3]) : car;
  });
}

function drawRoad(context, width, height, { top, road, lane, lanes, shift }) {
  context.fillStyle = "#8fae84";
  context.fillRect(0, 0, width, height);
  context.fillStyle = "#7d9c73"; // tufts pass by, and show the speed
  for (let x = -((shift * 1) % 97); x < width + 97; x += 97)
    for (const y of [top * 0.45, top + road + (height - top - road) * 0.6]) {
      context.beginPath();
      context.ellipse(x, y, 22, 6, 0, 0, 7);
      context.fill();
    }
  context.fillStyle = "#59606b";
  context.fillRect(0, top, width, road);
  context.strokeStyle = "#fff";
  for (let k = 0; k <= lanes; k++) {
    const edge = k === 0 || k === lanes;
    context.lineWidth = edge ? 3 : 2;
    context.setLineDash(edge ? [] : [lane * 0.8, lane * 1.2]);
    context.lineDashOffset = shift;
    context.beginPath();
    context.moveTo(0, top + k * lane);
    context.lineTo(width, top + k * lane);
    context.stroke();
  }
  context.setLineDash([]);
}

function drawCar(context, [x, y], [length, broad], [, , heading, crashed], color, glass) {
  context.save();
  context.translate(x, y);
  context.rotate(heading);
  context.fillStyle = "#20262f";
  for (const [dx, dy] of [[-0.3, -0.5], [0.3, -0.5], [-0.3, 0.5], [0.3, 0.5]])
    context.fillRect(dx * length - length * 0.09, dy * broad - broad * 0.1, length * 0.18, broad * 0.2);
  context.fillStyle = color;
  context.strokeStyle = "rgba(20,26,35,.7)";
  context.lineWidth = 1;
  context.beginPath();
  context.roundRect(-length / 2, -broad / 2, length, broad, broad * 0.3);
  context.fill();
  context.stroke();
  context.fillStyle = glass;
  context.beginPath();
  context.roundRect(length * 0.1, -broad * 0.36, length * 0.15, broad * 0.72, broad * 0.12);
  context.fill();
  context.restore();
  if (crashed) drawCross(context, x, y, length * 0.6);
}

function drawCross(context, x, y, size) {
  for (const [width, color] of [[9, "#fff"], [5, "#b3001b"]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(x - size / 2, y - size / 2);
    context.lineTo(x + size / 2, y + size / 2);
    context.moveTo(x + size / 2, y - size / 2);
    context.lineTo(x - size / 2, y + size / 2);
    context.stroke();
  }
}

function drawCaption(context, text, height) {
  context.fillStyle = INK;
  context.font = "600 15px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillText(text, 12, height - 12);
}

// The ghost of where the car is about to go, and an arrow that leads there.
function drawIntent(context, [x, y], [length, broad], action, { lane, top, bottom }) {
  const reach = { "lane left": [2.1, -1], "lane right": [2.1, 1], idle: [2, 0], faster: [3.6, 0], slower: [1.2, 0] };
  const to = action && reach[action.name];
  if (!to) return;
  const ghost = [x + to[0] * length, Math.max(top, Math.min(bottom, y + to[1] * lane))];
  context.save();
  for (const [width, color, dash] of [[4, INK, []], [2, "#fff", [5, 4]]]) {
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.beginPath();
    context.roundRect(ghost[0] - length / 2, ghost[1] - broad / 2, length, broad, broad * 0.3);
    context.stroke();
  }
  context.restore();
  if (action.name === "slower") drawArrow(context, [x + length * 1.7, y], [x + length * 0.6, y], broad * 0.22);
  else drawArrow(context, [x + length * 0.6, y], [ghost[0] - length * 0.45, ghost[1]], broad * 0.22);
}

// The small highway, whose cars stand in cells, drawn as the large one.
function makeLanes({ lanes, speeds }) {
  const highway = makeHighway({ lanes, lane_width: 4, length: 5, width: 2 });
  const spread = ({ lane, other, gap, crashed }) => ({
    cars: [[0, lane * 4, 0, crashed], [5.5 + gap * 4.5, other * 4, 0, false]],
  });
  return {
    ...highway,
    describe: ({ lane, other, gap, speed, crashed }) =>
      crashed
        ? "The cars have crashed."
        : `Your car is in lane ${lane + 1} of ${lanes}, at speed ${speed + 1} of ${speeds}. Another car is in lane ${other + 1}, ${gap} cells ahead.`,
    draw(context, width, height, view) {
      highway.draw(context, width, height, {
        ...view,
        rate: null,
        moving: spread(view.moving),
        before: view.before && spread(view.before),
      });
      drawCaption(context, `speed ${view.moving.speed + 1} of ${speeds}  ${"▸".repeat(view.moving.speed + 1)}`, height);
    },
  };
}

// --- Shelf ----------------------------------------------------------------------------------------------------

function makeShelf({ places, distances, heights }) {
  const columns = places + distances + 1;
  return {
    aspect: 2.6,
    legend: [],
    describe: ({ place, distance, height }) =>
      `The bottle is at place ${place + 1} of ${places}. The hand is ${distance} behind it, at height ${height + 1} of ${heights}.`,
    draw(context, width, height, { moving, before, share, action, person }) {
      const s = width / columns;
      const board = height * 0.82;
      const rise = (height * 0.6) / heights;
      const at = (key) => mix((before ?? moving)[key], moving[key], share);
      const column = (place) => (place + distances + 0.5) * s;
      context.fillStyle = "#eef1f5";
      context.fillRect(0, 0, width, height);
      context.fillStyle = "#b08d5f";
      context.fillRect(0, board, width, height * 0.05);
      context.fillStyle = "#8a6b43";
      context.fillRect(0, board + height * 0.05, width, height * 0.02);
      drawFlag(context, column(places - 1), board - s * 0.9, s * 2);
      const bottle = column(at("place"));
      drawBottle(context, bottle, board, s, height * 0.55);
      const [x, y] = [bottle - s * (0.9 + at("distance")), board - rise * (at("height") + 0.5)];
      const way = action && WAYS[action.name];
      if (way && !(way[0] || way[1])) drawRing(context, x, y, s * 0.55);
      drawMark(context, x, y, s * 0.38, person);
      if (way && (way[0] || way[1])) drawArrow(context, [x, y], [x + way[0] * s * 1.2, y + way[1] * rise * 0.9], Math.max(3, s * 0.1));
    },
  };
}

function drawBottle(context, x, bottom, broad, tall) {
  context.fillStyle = "#2f6b4f";
  context.beginPath();
  context.roundRect(x - broad / 2, bottom - tall * 0.66, broad, tall * 0.66, broad * 0.15);
  context.roundRect(x - broad * 0.2, bottom - tall, broad * 0.4, tall * 0.42, broad * 0.08);
  context.fill();
  context.fillStyle = "#efe6cf";
  context.fillRect(x - broad / 2, bottom - tall * 0.45, broad, tall * 0.22);
}

// --- Pictures -------------------------------------------------------------------------------------------------

function makePicture() {
  const images = new Map();
  const load = (jpeg) => {
    if (!images.has(jpeg)) {
      const image = new Image();
      image.src = `data:image/jpeg;base64,${jpeg}`;
      if (images.size > 60) images.delete(images.keys().next().value);
      images.set(jpeg, image);
    }
    return images.get(jpeg);
  };
  let shown = null; // the last picture that was ready: a picture takes a moment to decode
  return {
    aspect: 4 / 3,
    legend: [],
    describe: ({ text }) => text ?? "A picture of the environment.",
    draw(context, width, height, { moving }) {
      const image = moving.jpeg && load(moving.jpeg);
      if (image?.complete && image.naturalWidth) shown = image;
      context.fillStyle = "#20262f";
      context.fillRect(0, 0, width, height);
      if (moving.text) {
        context.fillStyle = "#fff";
        context.font = "16px system-ui, sans-serif";
        context.textAlign = "center";
        context.fillText(moving.text, width / 2, height / 2);
      } else if (shown) {
        const scale = Math.min(width / shown.naturalWidth, height / shown.naturalHeight);
        const [w, h] = [shown.naturalWidth * scale, shown.naturalHeight * scale];
        context.drawImage(shown, (width - w) / 2, (height - h) / 2, w, h);
      }
      return Boolean(image && !image.complete); // draw again, once it is decoded
    },
  };
}
