// Work that keeps a JavaScript engine's compilers busy: hot loops, functions made at run time, types
// that change under compiled code, regular expressions, WebAssembly, worker threads.
// Prints checksums that depend on the seed alone; where there is a second way to the same result,
// both must agree.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const { Worker, isMainThread, workerData, parentPort } = require('worker_threads');

function generator(seed) {
    let s = seed >>> 0;
    return () => {
        s = (s + 0x6d2b79f5) | 0;
        let t = Math.imul(s ^ (s >>> 15), 1 | s);
        t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
        return (t ^ (t >>> 14)) >>> 0;
    };
}
const seed = Number(isMainThread ? process.argv[2] : workerData);
const next = generator(seed);
const sum = value => crypto.createHash('sha256').update(String(value)).digest('hex').slice(0, 16);

// SHA-256 by hand against the engine's own.
const K = [];
(function constants() {
    for (let n = 2; K.length < 64; n++) {
        let prime = true;
        for (let d = 2; d * d <= n; d++) if (n % d === 0) prime = false;
        if (prime) K.push((Math.cbrt(n) % 1 * 0x100000000) | 0);
    }
})();

function sha256(data) {
    const h = [2, 3, 5, 7, 11, 13, 17, 19].map(n => (Math.sqrt(n) % 1 * 0x100000000) | 0);
    const blocks = new Uint8Array(((data.length + 8 >> 6) + 1) * 64);
    blocks.set(data);
    blocks[data.length] = 128;
    new DataView(blocks.buffer).setUint32(blocks.length - 4, data.length * 8);
    const view = new DataView(blocks.buffer), w = new Int32Array(64);
    for (let at = 0; at < blocks.length; at += 64) {
        for (let i = 0; i < 16; i++) w[i] = view.getInt32(at + 4 * i);
        for (let i = 16; i < 64; i++) {
            const a = w[i - 15], b = w[i - 2];
            const x = (a >>> 7 | a << 25) ^ (a >>> 18 | a << 14) ^ a >>> 3;
            const y = (b >>> 17 | b << 15) ^ (b >>> 19 | b << 13) ^ b >>> 10;
            w[i] = w[i - 16] + x + w[i - 7] + y | 0;
        }
        let [a, b, c, d, e, f, g, l] = h;
        for (let i = 0; i < 64; i++) {
            const x = (e >>> 6 | e << 26) ^ (e >>> 11 | e << 21) ^ (e >>> 25 | e << 7);
            const y = (a >>> 2 | a << 30) ^ (a >>> 13 | a << 19) ^ (a >>> 22 | a << 10);
            const t = l + x + (e & f ^ ~e & g) + K[i] + w[i] | 0;
            const u = y + (a & b ^ a & c ^ b & c) | 0;
            l = g; g = f; f = e; e = d + t | 0; d = c; c = b; b = a; a = t + u | 0;
        }
        [a, b, c, d, e, f, g, l].forEach((v, i) => { h[i] = h[i] + v | 0; });
    }
    return h.map(v => (v >>> 0).toString(16).padStart(8, '0')).join('');
}

function hashes() {
    for (let i = 0; i < 300; i++) {
        const data = Uint8Array.from({ length: next() % 5000 }, next);
        assert.strictEqual(sha256(data), crypto.createHash('sha256').update(data).digest('hex'));
    }
    return 'right';
}

// Random expressions: the made function, compiled when hot, against a walk over the tree.
function tree(depth) {
    if (depth === 0) return next() % 3 ? 'xyz'[next() % 3] : (next() % 1000) - 500;
    return ['+-*&|^'[next() % 6], tree(depth - 1), tree(depth - 1)];
}
const text = t => Array.isArray(t) ? `((${text(t[1])})${t[0]}(${text(t[2])})|0)` : `(${t})`;
function value(t, v) {
    if (!Array.isArray(t)) return typeof t === 'number' ? t : v[t];
    const a = value(t[1], v), b = value(t[2], v);
    switch (t[0]) {
    case '+': return a + b | 0;
    case '-': return a - b | 0;
    case '*': return a * b | 0;
    case '&': return a & b;
    case '|': return a | b;
    default: return a ^ b;
    }
}

function expressions() {
    let all = 0;
    for (let i = 0; i < 150; i++) {
        const t = tree(2 + i % 5), made = new Function('x', 'y', 'z', `return ${text(t)};`);
        for (let j = 0; j < 3000; j++) {
            const v = { x: next() | 0, y: next() & 255, z: -j };
            const seen = made(v.x, v.y, v.z);
            if (j % 16 === 0) assert.strictEqual(seen, value(t, v));
            all = all * 31 + seen | 0;
        }
    }
    return all;
}

// What was compiled for small integers meets floats, strings, big integers, holes.
function types() {
    const add = (a, b) => a + b, values = [1, 2.5, 'a', 10n, -0, NaN, 2 ** 53, undefined, null];
    let out = '';
    for (let round = 0; round < 200; round++) {
        let total = 0;
        for (let i = 0; i < 2000; i++) total = add(total, i % 7);
        assert.strictEqual(total, 5995);
        const a = values[next() % values.length], b = values[next() % values.length];
        if ((typeof a === 'bigint') === (typeof b === 'bigint')) out += add(a, b);
        const list = Array.from({ length: 50 }, (_, i) => i);
        if (round % 3 === 0) list[100] = 1.5;
        if (round % 5 === 0) delete list[7];
        out += list.reduce(add);
    }
    return sum(out);
}

function floats() {
    let all = 0;
    const a = Float64Array.from({ length: 4096 }, () => next() / 65536 - 32768);
    for (let round = 0; round < 200; round++)
        for (let i = 1; i < a.length; i++) {
            a[i] = a[i] * 0.75 + a[i - 1] * 0.25 + Math.sin(i);
            all += Math.floor(a[i]) ^ i;
        }
    const sorted = Float64Array.from(a).sort();
    for (let i = 1; i < sorted.length; i++) assert(sorted[i - 1] <= sorted[i]);
    return `${all} ${a[4095]}`;
}

function patterns() {
    let found = 0, words = '';
    for (let i = 0; i < 20000; i++) words += 'abcdef 0123'[next() % 11];
    for (let i = 0; i < 60; i++) {
        const pattern = new RegExp(`([a-c]+)${'defabc'[i % 6]}(\\d{1,${1 + i % 3}}|\\s)\\1?`, 'g');
        for (const match of words.matchAll(pattern)) found += match.index % 97 + match[0].length;
    }
    return found;
}

function bigs() {
    let a = 1n;
    for (let i = 0; i < 400; i++) {
        const b = BigInt(next()) * BigInt(next()) + 1n;
        const c = a * b;
        assert.strictEqual(c / b, a);
        assert.strictEqual((c + 5n) % b, 5n % b);
        a = c;
    }
    return sum(a.toString());
}

// (func (param i32 i32) (result i32)): one multiply-add, called from a hot loop.
function assembly() {
    const bytes = Uint8Array.from([0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 127, 127, 1, 127, 3,
        2, 1, 0, 7, 5, 1, 1, 102, 0, 0, 10, 12, 1, 10, 0, 32, 0, 65, 31, 108, 32, 1, 106, 11]);
    let all = 0, same = 0;
    for (let i = 0; i < 20; i++) {
        const { f } = new WebAssembly.Instance(new WebAssembly.Module(bytes)).exports;
        for (let j = 0; j < 20000; j++) {
            all = f(all, j);
            same = Math.imul(same, 31) + j | 0;
        }
        assert.strictEqual(all, same);
    }
    return all;
}

const parts = { hashes, expressions, types, floats, patterns, bigs, assembly };
const results = Object.keys(parts).map(name => `${name} ${parts[name]()}`);
if (isMainThread) {
    console.log(results.join('\n'));
    for (let i = 0; i < 3; i++) {
        const worker = new Worker(__filename, { workerData: seed + i });
        worker.on('message', text => { if (i === 0) assert.strictEqual(text, results.join('\n')); });
        worker.on('error', error => { throw error; });
    }
} else {
    parentPort.postMessage(results.join('\n'));
}
