// What a just-in-time compiler gets: numbers, objects of a few shapes, closures, text, collections.
'use strict';

class Vector {
  constructor(x, y, z) { this.x = x; this.y = y; this.z = z; }
  plus(other) { return new Vector(this.x + other.x, this.y + other.y, this.z + other.z); }
  times(factor) { return new Vector(this.x * factor, this.y * factor, this.z * factor); }
  dot(other) { return this.x * other.x + this.y * other.y + this.z * other.z; }
}

class Leaf { constructor(value) { this.value = value; } sum() { return this.value; } }
class Branch {
  constructor(left, right) { this.left = left; this.right = right; }
  sum() { return this.left.sum() + this.right.sum(); }
}

function vectors(count) {
  let at = new Vector(1, 2, 3), speed = new Vector(0.1, -0.2, 0.3);
  for (let i = 0; i < count; i++) {
    speed = speed.plus(at.times(-0.001 / (1 + at.dot(at))));
    at = at.plus(speed.times(0.01));
  }
  return at.dot(speed);
}

function tree(depth) {
  return depth === 0 ? new Leaf(1) : new Branch(tree(depth - 1), tree(depth - 1));
}

function hash(count) {
  const table = new Int32Array(4096);
  let value = 12345;
  for (let i = 0; i < count; i++) {
    value = (Math.imul(value, 1103515245) + 12345) | 0;
    table[(value >>> 8) & 4095] ^= value;
  }
  return table.reduce((sum, entry) => (sum + entry) | 0, 0);
}

function text(count) {
  const counts = new Map();
  for (let i = 0; i < count; i++) {
    const word = 'w' + (i * 7919 % 1009).toString(36);
    counts.set(word, (counts.get(word) || 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, 5).join();
}

function closures(count) {
  const steps = [x => x + 1, x => x * 3 % 10007, x => x ^ 5, x => x >> 1 | 1];
  let value = 1;
  for (let i = 0; i < count; i++)
    value = steps[i & 3](value);
  return value;
}

console.log(vectors(3e6), tree(18).sum(), hash(2e7), text(3e5), closures(1e7));
