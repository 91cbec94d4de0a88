import { allocateHost } from "../tensor/dtype.js";
import { checkShape, elementCount, type Shape } from "../tensor/shape.js";

/** Initial values on the host: a seeded stream, so that a model is the same wherever it is made. */
export class InitialValues {
  #state: Uint32Array;

  constructor(seed: number) {
    // SplitMix64-style spreading of the seed over the four words of xoshiro128**.
    this.#state = new Uint32Array(4);
    let z = BigInt(Math.trunc(seed));
    for (let i = 0; i < 4; i++) {
      z = BigInt.asUintN(64, z + 0x9e3779b97f4a7c15n);
      let mixed = z;
      mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n);
      mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn);
      this.#state[i] = Number((mixed ^ (mixed >> 31n)) & 0xffffffffn);
    }
  }

  /** The next number, uniform on (0, 1): xoshiro128** (Blackman and Vigna, arXiv 1805.01407). */
  next(): number {
    const s = this.#state;
    const scrambled = Math.imul(rotateLeft(Math.imul(s[1]!, 5), 7), 9) >>> 0;
    const t = s[1]! << 9;
    s[2]! ^= s[0]!;
    s[3]! ^= s[1]!;
    s[1]! ^= s[2]!;
    s[0]! ^= s[3]!;
    s[2]! ^= t;
    s[3] = rotateLeft(s[3]!, 11);
    return (scrambled + 0.5) / 2 ** 32;
  }

  /** Normal with the given standard deviation (Box–Muller). */
  normal(shape: Shape, standardDeviation: number): Float32Array {
    const values = parameterArray(shape);
    for (let i = 0; i < values.length; i += 2) {
      const radius = standardDeviation * Math.sqrt(-2 * Math.log(this.next()));
      const angle = 2 * Math.PI * this.next();
      values[i] = radius * Math.cos(angle);
      if (i + 1 < values.length) values[i + 1] = radius * Math.sin(angle);
    }
    return values;
  }

  /** Uniform on [-limit, limit). */
  uniform(shape: Shape, limit: number): Float32Array {
    return parameterArray(shape).map(() => (2 * this.next() - 1) * limit);
  }
}

function parameterArray(shape: Shape): Float32Array {
  checkShape("a parameter", shape);
  return allocateHost("f32", elementCount(shape), `a parameter [${shape.join(", ")}]`, "choose smaller sizes");
}

const rotateLeft = (x: number, bits: number): number => (x << bits) | (x >>> (32 - bits));

/** The stream that layers draw from when they are not given one. */
let shared = new InitialValues(0);

export const sharedInitialValues = (): InitialValues => shared;

/** Restarts the stream of initial weights. */
export function manualSeed(seed: number): void {
  shared = new InitialValues(seed);
}
