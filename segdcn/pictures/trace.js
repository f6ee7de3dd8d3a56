// What one output pixel reads through a chain of deformable layers: segdcn/offsets/points.py in JavaScript, for
// offset_page.html. tests/pictures/test_offset_page.py compares the two.
"use strict";

// The output pixel nearest to a place (y, x) in the image, as { row, column }.
function outputPixel(layer, y, x) {
  const nearest = (position, axis) =>
    Math.min(layer.size[axis] - 1, Math.max(0, Math.round((position - layer.output.start[axis]) / layer.output.stride[axis])));
  return { row: nearest(y, 0), column: nearest(x, 1) };
}

// Its centre [y, x] in the image.
function pixelCentre(layer, row, column) {
  const { start, stride } = layer.output;
  return [start[0] + stride[0] * row, start[1] + stride[1] * column];
}

// The share that pixels 0 .. length-1 have in a linear reading; the rest are zeros around the map.
function shareInside(position, length) {
  return Math.max(0, 1 - Math.max(0, -position) - Math.max(0, position - (length - 1)));
}

// Read plane number `plane` of `values` bilinearly at a position inside the map.
function interpolate(values, plane, [height, width], y, x) {
  const top = Math.floor(y), left = Math.floor(x);
  const bottom = Math.min(top + 1, height - 1), right = Math.min(left + 1, width - 1);
  const at = (row, column) => values[(plane * height + row) * width + column];
  const above = at(top, left) * (1 - (x - left)) + at(top, right) * (x - left);
  const below = at(bottom, left) * (1 - (x - left)) + at(bottom, right) * (x - left);
  return above * (1 - (y - top)) + below * (y - top);
}

// All points [{ y, x, weight, tap }] in image pixels that the output pixel (row, column) of the last layer reads.
function trace(layers, row, column) {
  const [y, x] = pixelCentre(layers[layers.length - 1], row, column);
  let points = [{ y, x, weight: 1, tap: -1 }];
  for (const layer of [...layers].reverse()) {
    const { size, output, input } = layer, [kh, kw] = layer.kernel, next = [];
    for (const point of points) {
      const along = [point.y, point.x].map((position, axis) => (position - output.start[axis]) / output.stride[axis]);
      const share = shareInside(along[0], size[0]) * shareInside(along[1], size[1]);
      if (share <= 0) continue;
      const [py, px] = along.map((position, axis) => Math.min(size[axis] - 1, Math.max(0, position)));
      for (let tap = 0; tap < kh * kw; tap++) {
        const dy = interpolate(layer.offset, 2 * tap, size, py, px);
        const dx = interpolate(layer.offset, 2 * tap + 1, size, py, px);
        const ry = py * layer.stride[0] - layer.padding[0] + Math.floor(tap / kw) * layer.dilation[0] + dy;
        const rx = px * layer.stride[1] - layer.padding[1] + (tap % kw) * layer.dilation[1] + dx;
        next.push({
          y: input.start[0] + input.stride[0] * ry,
          x: input.start[1] + input.stride[1] * rx,
          weight: point.weight * share * interpolate(layer.modulation, tap, size, py, px),
          tap: point.tap < 0 ? tap : point.tap,
        });
      }
    }
    points = next;
  }
  return points;
}

// Mean distance of adjacent sampling points at an output pixel, in pixels of the layer's input.
function effectiveDilation(layer, row, column) {
  const [kh, kw] = layer.kernel, position = (tap) => {
    const at = (axis) => layer.offset[((2 * tap + axis) * layer.size[0] + row) * layer.size[1] + column];
    return [Math.floor(tap / kw) * layer.dilation[0] + at(0), (tap % kw) * layer.dilation[1] + at(1)];
  };
  let sum = 0, pairs = 0;
  for (let tap = 0; tap < kh * kw; tap++) {
    const neighbours = [];
    if ((tap + 1) % kw) neighbours.push(tap + 1);
    if (tap + kw < kh * kw) neighbours.push(tap + kw);
    for (const neighbour of neighbours) {
      const [a, b] = [position(tap), position(neighbour)];
      sum += Math.hypot(a[0] - b[0], a[1] - b[1]);
      pairs++;
    }
  }
  return sum / pairs;
}

async function unpack(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Kind(await new Response(stream).arrayBuffer());
}

// Make a layer of what offset_page.py packed: offsets are 1/64 pixels, modulations 1/120.
async function unpackLayer(packed) {
  const [offset, modulation] = [await unpack(packed.offset, Int16Array), await unpack(packed.modulation, Uint8Array)];
  return {
    ...packed,
    offset: Float64Array.from(offset, (value) => value / 64),
    modulation: Float64Array.from(modulation, (value) => value / 120),
  };
}

if (typeof module !== "undefined") module.exports = { outputPixel, trace, effectiveDilation, unpack, unpackLayer };
