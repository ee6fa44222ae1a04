// Draws a robot cell from the poses of its bodies, by WebGL, and over that an arrow for what the tip is about to do.

import { drawArrow, drawMark } from "./shapes.js";

const NEAR = 0.05; // nearest and farthest that is drawn [m]
const FAR = 20;
const REACH = 0.16; // length of the arrow at full speed [m]
const ROUND = 28; // corners of a circle

const VERTEX = `#version 300 es
layout(location=0) in vec3 place; layout(location=1) in vec3 normal;
uniform mat4 camera; uniform mat3 turn; uniform vec3 size, centre; out vec3 facing; out vec3 world;
void main() { facing = turn * (normal / size); world = turn * (place * size) + centre; gl_Position = camera * vec4(world, 1.); }`;
const FRAGMENT = `#version 300 es
precision highp float; in vec3 facing, world; uniform vec4 color; uniform float fade; out vec4 seen;
void main() {
  vec3 n = normalize(facing);
  float light = .5 + .42 * max(dot(n, normalize(vec3(.35, -.45, .85))), 0.) + .16 * max(dot(n, normalize(vec3(-.7, .4, .3))), 0.);
  vec3 far = vec3(.90, .92, .95);
  seen = vec4(mix(color.rgb * light, far, fade * smoothstep(1.2, 4., length(world))), color.a);
}`;

export function makeArm({ geoms, camera }, actions) {
  const own = document.createElement("canvas");
  const gl = own.getContext("webgl2", { antialias: true, alpha: false, preserveDrawingBuffer: true });
  const gpu = gl && prepare(gl);
  const [right, up, back] = [0, 1, 2].map((k) => [camera.matrix[k], camera.matrix[3 + k], camera.matrix[6 + k]]);
  const focal = 0.9 / Math.tan((camera.fovy * Math.PI) / 360); // a little wider, so that the elbow is seen
  const unit = ([x, y]) => [x / Math.hypot(x, y), y / Math.hypot(x, y)];
  const [across, away] = [unit(right), unit(up)]; // what right and up on the screen are on the table

  function project(point, width, height) {
    const d = point.map((value, axis) => value - camera.position[axis]);
    const [x, y, z] = [right, up, back].map((axis) => axis[0] * d[0] + axis[1] * d[1] + axis[2] * d[2]);
    const scale = (focal * height) / 2 / -z;
    return [width / 2 + x * scale, height / 2 - y * scale];
  }

  return {
    aspect: 4 / 3,
    legend: [],
    describe: ({ tip }) => `The tip of the tool is ${Math.round(tip[2] * 100)} centimetres above the table.`,
    drag(x, y, shift) {
      const velocity = actions[0].action.map(() => 0);
      if (shift) velocity[2] = y;
      else for (const axis of [0, 1]) velocity[axis] = x * across[axis] + y * away[axis];
      return velocity;
    },
    draw(context, width, height, { moving, proposal, person }) {
      if (!gpu) {
        context.fillStyle = "#20262f";
        context.fillRect(0, 0, width, height);
        context.fillStyle = "#fff";
        context.font = "16px system-ui, sans-serif";
        context.textAlign = "center";
        context.fillText("Drawing the arm needs WebGL 2, which this browser lacks.", width / 2, height / 2);
        return;
      }
      const ratio = context.getTransform().a;
      const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (own.width !== w || own.height !== h) [own.width, own.height] = [w, h];
      gpu.begin(w, h, cameraMatrix({ position: camera.position, right, up, back, focal }, w / h));
      geoms.forEach((geom, i) => gpu.draw(geom, moving.poses[i]));
      for (const mark of moving.marks) gpu.draw(mark, mark.pose);
      context.drawImage(own, 0, 0, width, height);
      const tip = project(moving.tip, width, height);
      if (proposal) {
        const to = moving.tip.map((value, axis) => value + REACH * proposal[axis]);
        drawArrow(context, tip, project(to, width, height), Math.max(4, width / 130));
      }
      drawMark(context, ...tip, Math.max(5, width / 90), person);
    },
  };
}

function cameraMatrix({ position, right, up, back, focal }, aspect) {
  const rows = [right, up, back].map((axis) => [...axis, -axis.reduce((sum, value, k) => sum + value * position[k], 0)]);
  const [x, y, z] = rows;
  const depth = [(FAR + NEAR) / (NEAR - FAR), (2 * FAR * NEAR) / (NEAR - FAR)];
  const matrix = [
    x.map((value) => (value * focal) / aspect),
    y.map((value) => value * focal),
    z.map((value, k) => value * depth[0] + (k === 3 ? depth[1] : 0)),
    z.map((value) => -value),
  ];
  return new Float32Array(matrix[0].flatMap((_, column) => matrix.map((row) => row[column]))); // by columns
}

// --- Shapes ---------------------------------------------------------------------------------------------------

// Corners of triangles and their normals, of bodies of half size 1.
function buildBox() {
  const corners = [];
  for (const axis of [0, 1, 2])
    for (const side of [-1, 1]) {
      const corner = (u, v) => {
        const place = [0, 0, 0];
        [place[axis], place[(axis + 1) % 3], place[(axis + 2) % 3]] = [side, u, v];
        return place;
      };
      const normal = [0, 1, 2].map((k) => (k === axis ? side : 0));
      for (const [u, v] of [[-1, -1], [1, -1], [1, 1], [-1, -1], [1, 1], [-1, 1]]) corners.push([corner(u, v), normal]);
    }
  return corners;
}

function buildCylinder() {
  const corners = [];
  for (let k = 0; k < ROUND; k++) {
    const [a, b] = [k, k + 1].map((each) => [Math.cos((each / ROUND) * 2 * Math.PI), Math.sin((each / ROUND) * 2 * Math.PI)]);
    for (const [[x, y], z] of [[a, -1], [b, -1], [b, 1], [a, -1], [b, 1], [a, 1]]) corners.push([[x, y, z], [x, y, 0]]);
    for (const z of [-1, 1]) for (const [x, y] of [[0, 0], a, b]) corners.push([[x, y, z], [0, 0, z]]);
  }
  return corners;
}

function buildSphere() {
  const corners = [];
  const place = (row, column) => {
    const [polar, turn] = [(row / (ROUND / 2)) * Math.PI, (column / ROUND) * 2 * Math.PI];
    return [Math.sin(polar) * Math.cos(turn), Math.sin(polar) * Math.sin(turn), Math.cos(polar)];
  };
  for (let row = 0; row < ROUND / 2; row++)
    for (let column = 0; column < ROUND; column++)
      for (const [r, c] of [[0, 0], [0, 1], [1, 1], [0, 0], [1, 1], [1, 0]]) {
        const corner = place(row + r, column + c);
        corners.push([corner, corner]);
      }
  return corners;
}

// --- WebGL ----------------------------------------------------------------------------------------------------

function prepare(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  const place = Object.fromEntries(
    ["camera", "turn", "size", "centre", "color", "fade"].map((name) => [name, gl.getUniformLocation(program, name)]),
  );
  const load = (corners) => {
    const shape = gl.createVertexArray();
    gl.bindVertexArray(shape);
    for (const index of [0, 1]) {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(corners.flatMap((corner) => corner[index])), gl.STATIC_DRAW);
      gl.enableVertexAttribArray(index);
      gl.vertexAttribPointer(index, 3, gl.FLOAT, false, 0, 0);
    }
    return { shape, count: corners.length };
  };
  const [box, cylinder, sphere] = [buildBox(), buildCylinder(), buildSphere()].map(load);

  function put({ shape, count }, size, centre) {
    gl.uniform3fv(place.size, size);
    gl.uniform3fv(place.centre, centre);
    gl.bindVertexArray(shape);
    gl.drawArrays(gl.TRIANGLES, 0, count);
  }

  return {
    begin(width, height, matrix) {
      gl.viewport(0, 0, width, height);
      gl.clearColor(0.9, 0.92, 0.95, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.enable(gl.DEPTH_TEST);
      gl.enable(gl.BLEND);
      gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
      gl.uniformMatrix4fv(place.camera, false, matrix);
    },
    draw({ type, size, rgba }, pose) {
      const [centre, turn] = [pose.slice(0, 3), pose.slice(3)];
      gl.uniformMatrix3fv(place.turn, true, turn);
      gl.uniform4fv(place.color, rgba);
      gl.uniform1f(place.fade, type === "plane" ? 1 : 0);
      if (type === "box") put(box, size, centre);
      else if (type === "plane") put(box, [size[0] || 5, size[1] || 5, 0.001], centre);
      else if (type === "sphere") put(sphere, [size[0], size[0], size[0]], centre);
      else if (type === "ellipsoid") put(sphere, size, centre);
      else if (type === "cylinder") put(cylinder, size, centre); // radius, radius, half length
      else {
        const [radius, , half] = size;
        put(cylinder, [radius, radius, half], centre);
        for (const end of [-1, 1])
          put(sphere, [radius, radius, radius], centre.map((value, k) => value + end * half * turn[k * 3 + 2]));
      }
    },
  };
}
