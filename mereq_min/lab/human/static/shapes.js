// Shapes that several kinds of scenes draw.

export const POLICY = "#0072b2";
export const PERSON = "#c14f00";
export const INK = "#1d2530";

export const mix = (from, to, share) => from + (to - from) * share;

// An arrow with a light rim, so that it is seen on every ground.
export function drawArrow(context, [x0, y0], [x1, y1], size) {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const length = Math.hypot(dx, dy);
  if (length < 1) return;
  const [ux, uy] = [dx / length, dy / length];
  const head = Math.min(size * 2.6, length * 0.7);
  const neck = [x1 - ux * head * 0.8, y1 - uy * head * 0.8];
  context.save();
  context.lineCap = "round";
  context.lineJoin = "round";
  for (const [width, paint] of [[size + 4, "rgba(255,255,255,.92)"], [size, INK]]) {
    context.strokeStyle = context.fillStyle = paint;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(x0, y0);
    context.lineTo(...neck);
    context.stroke();
    context.beginPath();
    context.moveTo(x1, y1);
    context.lineTo(x1 - ux * head - uy * head * 0.6, y1 - uy * head + ux * head * 0.6);
    context.lineTo(x1 - ux * head + uy * head * 0.6, y1 - uy * head - ux * head * 0.6);
    context.closePath();
    if (paint !== INK) {
      context.lineWidth = 4;
      context.stroke();
    }
    context.fill();
  }
  context.restore();
}

// Who is in control, in shape and colour: a circle is the policy, a square the person.
export function drawMark(context, x, y, radius, person) {
  context.save();
  context.beginPath();
  if (person) context.rect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
  else context.arc(x, y, radius, 0, 7);
  context.fillStyle = person ? PERSON : POLICY;
  context.strokeStyle = "#fff";
  context.lineWidth = Math.max(1.5, radius * 0.22);
  context.fill();
  context.stroke();
  context.restore();
}

// A dashed ring: where something is about to be.
export function drawRing(context, x, y, radius) {
  context.save();
  context.setLineDash([radius * 0.3, radius * 0.3]);
  for (const [width, color] of [[6, "#fff"], [3, INK]]) {
    context.lineWidth = width;
    context.strokeStyle = color;
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.stroke();
  }
  context.restore();
}

export function drawFlag(context, x, y, size) {
  context.strokeStyle = INK;
  context.lineWidth = Math.max(1, size * 0.08);
  context.beginPath();
  context.moveTo(x - size * 0.18, y + size * 0.34);
  context.lineTo(x - size * 0.18, y - size * 0.34);
  context.stroke();
  context.fillStyle = "#1f7a3d";
  context.beginPath();
  context.moveTo(x - size * 0.18, y - size * 0.36);
  context.lineTo(x + size * 0.3, y - size * 0.18);
  context.lineTo(x - size * 0.18, y);
  context.fill();
}

export function drawEyes(context, x, y, radius, [dx, dy]) {
  const [cx, cy] = [x + dx * radius * 0.25, y + dy * radius * 0.2];
  for (const side of [-1, 1]) {
    context.fillStyle = "#fff";
    context.beginPath();
    context.arc(cx + side * radius * 0.34, cy, radius * 0.27, 0, 7);
    context.fill();
    context.fillStyle = INK;
    context.beginPath();
    context.arc(cx + side * radius * 0.34 + dx * radius * 0.12, cy + dy * radius * 0.12, radius * 0.13, 0, 7);
    context.fill();
  }
}

// Make a canvas sharp and as large as it is shown; returns a context in CSS pixels.
export function fit(canvas, aspect) {
  const ratio = Math.min(2, devicePixelRatio || 1);
  const width = Math.max(1, canvas.clientWidth);
  const height = width / aspect;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
