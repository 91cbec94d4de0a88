import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { crc32c, maskedCrc32c } from "../../src/train/crc32c.js";
import { openTensorBoardFile } from "../../src/train/index.js";
import { encodeEvent, encodeRecord } from "../../src/train/tensorboard.js";

test("CRC-32C gives the vectors of RFC 3720, B.4", () => {
  const ascending = Uint8Array.from({ length: 32 }, (_, i) => i);
  expect(crc32c(new Uint8Array(32))).toBe(0x8a9136aa);
  expect(crc32c(new Uint8Array(32).fill(0xff))).toBe(0x62a8ab43);
  expect(crc32c(ascending)).toBe(0x46dd794e);
  expect(crc32c(ascending.toReversed())).toBe(0x113fdb5c);
  expect(crc32c(Buffer.from("123456789"))).toBe(0xe3069283);
});

test("masking can be undone as TFRecord readers do", () => {
  const crc = crc32c(Buffer.from("foo"));
  const masked = maskedCrc32c(Buffer.from("foo"));
  const rotated = (masked - 0xa282ead8) >>> 0;
  expect(((rotated >>> 17) | (rotated << 15)) >>> 0).toBe(crc);
});

test("an event file begins with the bytes that TensorBoard's own writer puts there", () => {
  const event = encodeEvent(0, { fileVersion: "brain.Event:2" });
  expect(event.toString("hex")).toBe(`090000000000000000${"1a0d"}${Buffer.from("brain.Event:2").toString("hex")}`);
  const record = encodeRecord(event);
  expect(record.readBigUInt64LE(0)).toBe(24n);
  expect(record.length).toBe(24 + 16);
});

type WireField = { field: number; value: bigint | Buffer };

/** Decodes one protocol buffer message by the wire specification, independently of the encoder. */
function decode(bytes: Buffer): WireField[] {
  const fields: WireField[] = [];
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++] as number;
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const key = Number(varint());
    const wire = key & 7;
    const length = wire === 1 ? 8 : wire === 5 ? 4 : wire === 2 ? Number(varint()) : 0;
    fields.push({ field: key >> 3, value: wire === 0 ? varint() : bytes.subarray(at, at + length) });
    at += length;
  }
  return fields;
}

function pick(fields: WireField[], field: number): Buffer {
  return fields.find((candidate) => candidate.field === field)?.value as Buffer;
}

function* records(bytes: Buffer): Generator<Buffer> {
  for (let at = 0; at < bytes.length; ) {
    const length = Number(bytes.readBigUInt64LE(at));
    expect(bytes.readUInt32LE(at + 8)).toBe(maskedCrc32c(bytes.subarray(at, at + 8)));
    const data = bytes.subarray(at + 12, at + 12 + length);
    expect(bytes.readUInt32LE(at + 12 + length)).toBe(maskedCrc32c(data));
    yield data;
    at += length + 16;
  }
}

test("scalars come back by parsing the file, and a resumed file voids later steps", async () => {
  const folder = await mkdtemp(path.join(tmpdir(), "trefoil-tensorboard-"));
  const sink = await openTensorBoardFile(folder, { resumeStep: 299, now: () => 1_700_000_000_250 });
  sink.write({ step: 300, kind: "train", values: { loss: 0.5, ünits: 3, broken: Number.NaN } });
  sink.write({ step: 2 ** 40, kind: "evaluate", values: { loss: -1.25 } });
  sink.write({ step: 301, kind: "train", values: { broken: Number.NaN } });
  await sink.close();

  const [name] = await readdir(folder);
  expect(name).toMatch(/^events\.out\.tfevents\.1700000000\./);
  const events = [...records(await readFile(path.join(folder, name as string)))].map(decode);
  await rm(folder, { recursive: true });
  expect(events).toHaveLength(4);
  for (const event of events) expect(pick(event, 1).readDoubleLE()).toBe(1_700_000_000.25);
  const scalarsOf = (event: WireField[]) =>
    decode(pick(event, 5)).map(({ value }) => {
      const fields = decode(value as Buffer);
      return [pick(fields, 1).toString(), pick(fields, 2).readFloatLE()];
    });
  const [version, restart, train, evaluate] = events as [WireField[], WireField[], WireField[], WireField[]];
  expect(pick(version, 3).toString()).toBe("brain.Event:2");
  expect(restart.find(({ field }) => field === 2)?.value).toBe(300n);
  expect(decode(pick(restart, 7))).toEqual([{ field: 1, value: 1n }]);
  expect(train.find(({ field }) => field === 2)?.value).toBe(300n);
  expect(scalarsOf(train)).toEqual([
    ["train/loss", 0.5],
    ["train/ünits", 3],
  ]);
  expect(evaluate.find(({ field }) => field === 2)?.value).toBe(2n ** 40n);
  expect(scalarsOf(evaluate)).toEqual([["evaluate/loss", -1.25]]);
});
