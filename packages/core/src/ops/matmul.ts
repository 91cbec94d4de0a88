import { DtypeError, ShapeError } from "../tensor/errors.js";
import { broadcastShapes, elementCount, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { requireTensor } from "./check-arguments.js";
import { add, broadcastTo } from "./elementwise.js";
import { reshape } from "./movement.js";
import { apply, defineOp, type GradientRequest } from "./op.js";

export interface MatmulOptions {
  /** Use `a` as its transpose (last two axes). */
  transposeA?: boolean;
  /** Use `b` as its transpose (last two axes). */
  transposeB?: boolean;
}

function gradient({ inputs, attributes, upstream, needs }: GradientRequest): (Tensor | null)[] {
  const [a, b] = [inputs[0]!, inputs[1]!];
  const [ta, tb] = [attributes[0] === 1, attributes[1] === 1];
  const dy = upstream[0]!;
  const da = () => (ta ? matmul(b, dy, { transposeA: tb, transposeB: true }) : matmul(dy, b, { transposeB: !tb }));
  const db = () => (tb ? matmul(dy, a, { transposeA: true, transposeB: ta }) : matmul(a, dy, { transposeA: !ta }));
  return [needs[0] ? da() : null, needs[1] ? db() : null];
}

const opMatmul = defineOp({ name: "matmul", kernel: "matmul", operands: ["float", "float", "f32"], gradient });

/**
 * Matrix product of the last two axes, `[.., M, K] x [.., K, N] -> [.., M, N]`; leading axes broadcast. Operands are f32, or bf16
 * as storage; the result is f32.
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  requireTensor("matmul", b);
  const ta = options.transposeA ?? false;
  const tb = options.transposeB ?? false;
  if (a.rank < 2 || b.rank < 2)
    throw new ShapeError("matmul", "operands need two dimensions or more", [a.shape, b.shape]);
  if (a.dtype === "i32" || b.dtype === "i32") {
    throw new DtypeError("matmul", "operands must be f32 or bf16; cast them first", [a.dtype, b.dtype]);
  }
  const [m, ka] = ta ? [a.shape.at(-1)!, a.shape.at(-2)!] : [a.shape.at(-2)!, a.shape.at(-1)!];
  const [kb, n] = tb ? [b.shape.at(-1)!, b.shape.at(-2)!] : [b.shape.at(-2)!, b.shape.at(-1)!];
  if (ka !== kb) throw new ShapeError("matmul", `inner sizes differ, ${ka} and ${kb}`, [a.shape, b.shape]);
  if (b.rank === 2 && a.rank > 2 && !ta) {
    // Rows of every batch share b: one tall product.
    const rows = elementCount(a.shape.slice(0, -1));
    return reshape(matmul(reshape(a, [rows, ka]), b, options), [...a.shape.slice(0, -1), n]);
  }
  const leading = broadcastShapes("matmul", [a.shape.slice(0, -2), b.shape.slice(0, -2)]);
  const left = sameShape(a.shape.slice(0, -2), leading) ? a : broadcastTo(a, [...leading, ...a.shape.slice(-2)]);
  const right = sameShape(b.shape.slice(0, -2), leading) ? b : broadcastTo(b, [...leading, ...b.shape.slice(-2)]);
  const attributes = [ta ? 1 : 0, tb ? 1 : 0, 1, 0];
  return apply(opMatmul, [left, right, null, null], { shape: [...leading, m, n], dtype: "f32" }, attributes);
}

/** `x wᵀ + bias`, the layout of Hugging Face linear layers: x [.., in], weight [out, in], bias [out]. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const product = matmul(x, weight, { transposeB: true });
  return bias ? add(product, bias) : product;
}
