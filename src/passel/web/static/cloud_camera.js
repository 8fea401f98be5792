// A camera that looks at a point of the map from a distance, a compass direction and a height; z is up, lengths are metres.
// Matrices are column by column, as WebGL takes them, and leave the target out: places go in relative to it, so that
// metres of a map projection, which have seven digits, do not tremble in the graphics card's short numbers.

const FIELD_RAD = 0.85;
const STEEPEST = Math.PI / 2 - 0.001;

export class OrbitCamera {
  constructor() {
    this.target = [0, 0, 0];
    this.distance = 100;
    this.yaw = 0; // where the camera looks: 0 = north, clockwise
    this.pitch = 0.9; // how far it looks down: 0 = level, π/2 = straight down
    this.reach = 100; // half the size of all there is
  }

  // All of a box from the south, from half above.
  fit(low, high, aspect) {
    this.target = low.map((v, i) => (v + high[i]) / 2);
    this.reach = Math.max(1, Math.hypot(high[0] - low[0], high[1] - low[1]) / 2);
    const field = Math.min(FIELD_RAD, 2 * Math.atan(Math.tan(FIELD_RAD / 2) * aspect));
    this.distance = (0.8 * this.reach) / Math.tan(field / 2);
    this.yaw = 0;
    this.pitch = 0.85;
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(STEEPEST, Math.max(-0.2, this.pitch + pitch));
  }

  zoom(factor) {
    this.distance = Math.min(6 * this.reach, Math.max(0.5, this.distance * factor));
  }

  // Over the ground: right and forward, in parts of the view's height.
  move(right, forward) {
    const step = 2 * this.distance * Math.tan(FIELD_RAD / 2);
    const [s, c] = [Math.sin(this.yaw), Math.cos(this.yaw)];
    const ahead = forward / Math.max(0.35, Math.sin(Math.abs(this.pitch)));
    this.target[0] += step * (right * c + ahead * s);
    this.target[1] += step * (ahead * c - right * s);
  }

  get eye() {
    const level = this.distance * Math.cos(this.pitch);
    return [-level * Math.sin(this.yaw), -level * Math.cos(this.yaw), this.distance * Math.sin(this.pitch)];
  }

  // matrix: from places relative to the target to clip space. scale: pixels of a metre at one metre's distance.
  see(width, height) {
    const [sy, cy, sp, cp] = [Math.sin(this.yaw), Math.cos(this.yaw), Math.sin(this.pitch), Math.cos(this.pitch)];
    const right = [cy, -sy, 0];
    const up = [sy * sp, cy * sp, cp];
    const back = [-sy * cp, -cy * cp, sp];
    const near = Math.max(0.05, this.distance * 0.02);
    const far = this.distance + 8 * this.reach;
    const f = 1 / Math.tan(FIELD_RAD / 2);
    const g = (f * height) / width;
    const [a, b] = [(far + near) / (near - far), (2 * far * near) / (near - far)];
    const matrix = new Float32Array(16);
    for (let i = 0; i < 3; i++) matrix.set([g * right[i], f * up[i], a * back[i], -back[i]], 4 * i);
    matrix.set([0, 0, -a * this.distance + b, this.distance], 12);
    return { matrix, near, far, width, height, scale: (f * height) / 2 };
  }
}

// Whether a ball (relative to the target) is in sight.
export function inSight(m, [x, y, z], radius) {
  for (const [row, sign] of [[0, 1], [0, -1], [1, 1], [1, -1], [2, 1]]) {
    const [a, b, c, d] = [0, 4, 8, 12].map((i) => m[i + 3] + sign * m[i + row]);
    if (a * x + b * y + c * z + d < -radius * Math.hypot(a, b, c)) return false;
  }
  return true;
}

// The place (relative to the target) that is drawn at a point of clip space.
export function unproject(camera, view, x, y, depth) {
  const along = (2 * view.near * view.far) / (view.far + view.near - (2 * depth - 1) * (view.far - view.near));
  const [sy, cy, sp, cp] = [Math.sin(camera.yaw), Math.cos(camera.yaw), Math.sin(camera.pitch), Math.cos(camera.pitch)];
  const f = 1 / Math.tan(FIELD_RAD / 2);
  const sideways = (x * along * view.width) / (f * view.height);
  const upwards = (y * along) / f;
  const { eye } = camera;
  return [
    eye[0] + cy * sideways + sy * sp * upwards + sy * cp * along,
    eye[1] - sy * sideways + cy * sp * upwards + cy * cp * along,
    eye[2] + cp * upwards - sp * along,
  ];
}
