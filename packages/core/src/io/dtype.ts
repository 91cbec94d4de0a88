/** Bytes per element of every dtype that is read and written. */
export const dtypeBytes = {
  U64: 8,
  I64: 8,
  F64: 8,
  F32: 4,
  U32: 4,
  I32: 4,
  BF16: 2,
  F16: 2,
  U16: 2,
  I16: 2,
  I8: 1,
  U8: 1,
  BOOL: 1,
} as const;

export type SafetensorsDtype = keyof typeof dtypeBytes;

/** How tensors of each dtype are stored. */
export const storedDtypes = { f32: "F32", i32: "I32", bf16: "BF16" } as const;

/** Dtypes of the format that are recognised and refused by name. */
export const refusedDtypes: ReadonlySet<string> = new Set([
  "F8_E4M3",
  "F8_E5M2",
  "F8_E8M0",
  "F8_E4M3FNUZ",
  "F8_E5M2FNUZ",
  "F6_E2M3",
  "F6_E3M2",
  "F4",
  "C64",
]);

/** Order in which the Python library lays tensors out, by dtype: wider alignment first. Within a dtype: by name. */
const layoutOrder: readonly string[] = Object.keys(dtypeBytes);

export function isDtype(name: string): name is SafetensorsDtype {
  return Object.hasOwn(dtypeBytes, name);
}

/** Elements of a shape; NaN where the product leaves the safe integers. */
export function elementCount(shape: readonly number[]): number {
  if (shape.includes(0)) return 0;
  let count = 1;
  for (const extent of shape) {
    count *= extent;
    if (!Number.isSafeInteger(count)) return Number.NaN;
  }
  return count;
}

export function compareLayout(
  a: { name: string; dtype: SafetensorsDtype },
  b: { name: string; dtype: SafetensorsDtype },
): number {
  const byDtype = layoutOrder.indexOf(a.dtype) - layoutOrder.indexOf(b.dtype);
  // UTF-8 byte order, which differs from JavaScript's UTF-16 order above U+FFFF.
  return byDtype || Buffer.compare(Buffer.from(a.name), Buffer.from(b.name));
}
