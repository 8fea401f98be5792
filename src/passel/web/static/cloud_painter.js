// Draws points with WebGL 2. First into a picture with depth, then that picture with edges darkened where the depth jumps
// (eye-dome lighting), which shows the shape of things without any normals.

const HEIGHT_COLOURS = [[38, 70, 107], [42, 125, 126], [112, 168, 102], [214, 199, 122], [196, 140, 88], [238, 230, 222]];

const POINTS = `#version 300 es
uniform mat4 matrix; uniform vec3 low; uniform float side, size, scale, lowest, highest; uniform int mode; uniform vec3 ramp[6];
layout(location = 0) in vec3 place; layout(location = 1) in vec3 colour;
out vec3 shown;
void main() {
  vec3 at = low + place * side;
  gl_Position = matrix * vec4(at, 1);
  gl_PointSize = clamp(size * scale / gl_Position.w, 1.5, 40.0);
  float part = clamp((at.z - lowest) / (highest - lowest), 0.0, 1.0) * 5.0;
  int below = min(int(part), 4);
  shown = mode == 1 ? mix(ramp[below], ramp[below + 1], part - float(below)) : colour;
}`;
const DOTS = `#version 300 es
precision highp float; precision highp int;
uniform int mode; in vec3 shown; out vec4 colour;
void main() {
  vec2 off = gl_PointCoord - 0.5;
  if (dot(off, off) > 0.25) discard;
  uint deep = uint(gl_FragCoord.z * 16777215.0);
  colour = mode == 2 ? vec4(vec3((uvec3(deep) >> uvec3(16, 8, 0)) & 255u) / 255.0, 1) : vec4(shown, 1);
}`;
const WHOLE = `#version 300 es
void main() { gl_Position = vec4(vec2(gl_VertexID & 1, gl_VertexID >> 1) * 4.0 - 1.0, 0, 1); }`;
const EDGES = `#version 300 es
precision highp float; precision highp int;
uniform sampler2D colours, depths; uniform float near, far; uniform int step_px; out vec4 colour;
float far_off(ivec2 at) {
  float deep = texelFetch(depths, clamp(at, ivec2(0), textureSize(depths, 0) - 1), 0).r;
  return deep >= 1.0 ? -1.0 : log2(near * far / (far - deep * (far - near)));
}
void main() {
  ivec2 at = ivec2(gl_FragCoord.xy);
  float here = far_off(at), sum = 0.0;
  if (texelFetch(depths, at, 0).r >= 1.0) { colour = vec4(0); return; }
  for (int i = 0; i < 8; i++) {
    ivec2 to = ivec2(round(vec2(cos(float(i) * 0.7854), sin(float(i) * 0.7854)) * float(step_px)));
    float there = far_off(at + to);
    sum += there == -1.0 ? 0.0 : max(0.0, here - there);
  }
  colour = vec4(texelFetch(colours, at, 0).rgb * exp(-28.0 * sum / 8.0), 1);
}`;

export class Painter {
  // Throws with words for the user when this browser cannot do it.
  constructor(canvas) {
    this.gl = canvas.getContext("webgl2", { antialias: false, depth: false, alpha: true, powerPreference: "high-performance" });
    if (!this.gl) throw new Error("This browser cannot draw in three dimensions (WebGL 2 is missing or switched off).");
    this.points = program(this.gl, POINTS, DOTS);
    this.edges = program(this.gl, WHOLE, EDGES);
    this.frame = this.gl.createFramebuffer();
    this.colours = this.gl.createTexture();
    this.depths = this.gl.createTexture();
    this.size = [0, 0];
  }

  resize(width, height) {
    const { gl } = this;
    if (this.size[0] === width && this.size[1] === height) return;
    this.size = [width, height];
    gl.canvas.width = width;
    gl.canvas.height = height;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    for (const [texture, place, inner, outer, type] of [
      [this.colours, gl.COLOR_ATTACHMENT0, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE], [this.depths, gl.DEPTH_ATTACHMENT, gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT]]) {
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, outer, type, null);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
      gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, place, gl.TEXTURE_2D, texture, 0);
    }
  }

  // packed: a node as the server sends it. The result belongs to `draw` and `drop`.
  take(packed) {
    const { gl } = this;
    const count = packed.byteLength / 9;
    const array = gl.createVertexArray();
    const buffer = gl.createBuffer();
    gl.bindVertexArray(array);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
    gl.bufferData(gl.ARRAY_BUFFER, packed, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.UNSIGNED_SHORT, true, 6, 0);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 3, gl.UNSIGNED_BYTE, true, 3, 6 * count);
    gl.bindVertexArray(null);
    return { array, buffer, count };
  }

  drop({ array, buffer }) {
    this.gl.deleteVertexArray(array);
    this.gl.deleteBuffer(buffer);
  }

  // nodes: [{low (relative to the target), side, size (of a point, m), stock}]. heights: [lowest, highest], relative as well.
  draw(view, nodes, heights, byHeight) {
    const { gl } = this;
    this.drawPoints(view, nodes, heights, byHeight ? 1 : 0);
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(this.edges.program);
    for (const [i, name] of ["colours", "depths"].entries()) {
      gl.activeTexture(gl.TEXTURE0 + i);
      gl.bindTexture(gl.TEXTURE_2D, this[name]);
      gl.uniform1i(this.edges.at(name), i);
    }
    gl.uniform1f(this.edges.at("near"), view.near);
    gl.uniform1f(this.edges.at("far"), view.far);
    gl.uniform1i(this.edges.at("step_px"), Math.max(1, Math.round(this.size[1] / 500)));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  // How deep the picture is around a pixel: the nearest point within a few pixels, null where there is none.
  depthAt(view, nodes, x, y) {
    const { gl } = this;
    const [half, wide] = [4, 9];
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(x - half, y - half, wide, wide);
    this.drawPoints(view, nodes, [0, 1], 2);
    gl.disable(gl.SCISSOR_TEST);
    const seen = new Uint8Array(4 * wide * wide);
    gl.readPixels(x - half, y - half, wide, wide, gl.RGBA, gl.UNSIGNED_BYTE, seen);
    let [best, nearest] = [null, Infinity];
    for (let i = 0; i < wide * wide; i++) {
      const off = Math.hypot((i % wide) - half, Math.floor(i / wide) - half);
      if (!seen[4 * i + 3] || off >= nearest) continue;
      const [a, b, c] = seen.subarray(4 * i, 4 * i + 3);
      [best, nearest] = [(65536 * a + 256 * b + c) / 16777215, off];
    }
    return best;
  }

  drawPoints(view, nodes, [lowest, highest], mode) {
    const { gl, points } = this;
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.frame);
    gl.viewport(0, 0, ...this.size);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(points.program);
    gl.uniformMatrix4fv(points.at("matrix"), false, view.matrix);
    gl.uniform1f(points.at("scale"), view.scale);
    gl.uniform1f(points.at("lowest"), lowest);
    gl.uniform1f(points.at("highest"), highest);
    gl.uniform1i(points.at("mode"), mode);
    gl.uniform3fv(points.at("ramp[0]"), HEIGHT_COLOURS.flat().map((v) => v / 255));
    for (const { low, side, size, stock } of nodes) {
      gl.uniform3fv(points.at("low"), low);
      gl.uniform1f(points.at("side"), side);
      gl.uniform1f(points.at("size"), size);
      gl.bindVertexArray(stock.array);
      gl.drawArrays(gl.POINTS, 0, stock.count);
    }
    gl.bindVertexArray(null);
  }
}

function program(gl, vertex, fragment) {
  const made = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(`The point cloud cannot be drawn: ${gl.getProgramInfoLog(made)}`);
  const places = new Map();
  const at = (name) => places.get(name) ?? places.set(name, gl.getUniformLocation(made, name)).get(name);
  return { program: made, at };
}
