import { afterEach, expect, test } from "vitest";
import { LinePeer, PeerError } from "../src/peers/line-peer.js";
import { buildNativePrograms } from "../src/peers/native-programs.js";
import { Peers } from "../src/peers/peers.js";

const opened: Disposable[] = [];
afterEach(() => {
  for (const each of opened.splice(0)) each[Symbol.dispose]();
});

/** A peer that answers with what `answer`, JavaScript over `line`, gives. */
function scripted(answer: string): LinePeer {
  const program = `require("readline").createInterface({ input: process.stdin }).on("line", (line) => { ${answer} })`;
  const peer = new LinePeer("scripted", process.execPath, ["-e", program]);
  opened.push(peer);
  return peer;
}

test("a peer is stopped between requests, and answers the next one all the same", async () => {
  const peer = scripted(`
    globalThis.ticks ??= 0;
    globalThis.timer ??= setInterval(() => ticks++, 5);
    console.log(JSON.stringify({ ticks, twice: 2 * line }));
  `);
  expect(await peer.request("21")).toEqual({ ticks: 0, twice: 42 });
  await new Promise((resolve) => setTimeout(resolve, 300));
  const { ticks, twice } = await peer.request<{ ticks: number; twice: number }>("4");
  expect(twice).toBe(8);
  // Running it would have ticked sixty times; being woken it may tick a few.
  if (process.platform !== "win32") expect(ticks).toBeLessThan(10);
});

test("a peer that reports an error or dies says why, and is no failure of ours", async () => {
  await expect(scripted(`console.log('{"error":"no such kernel"}')`).request("x")).rejects.toThrow(
    "scripted: no such kernel",
  );
  const dying = scripted(`console.error("out of luck"); process.exit(3)`).request("x");
  await expect(dying).rejects.toThrow(PeerError);
  await expect(dying).rejects.toThrow("out of luck");
  await expect(scripted(`console.log("Welcome!")`).request("x")).rejects.toThrow(
    'scripted: is not the program that was expected: it wrote "Welcome!"',
  );
  const absent = new LinePeer("absent", "/no/such/program", []);
  opened.push(absent);
  await expect(absent.greeting()).rejects.toThrow(/ended without an answer/);
});

test("peers that are not there are listed with the reason", async () => {
  const programs = await buildNativePrograms();
  const absent = "/no/such/library.so";
  const libraries = { openblas: absent, blis: absent, onednn: absent };
  const peers = await Peers.find({
    programs,
    python: "/no/such/python",
    torchCompile: true,
    llama: "/no/such",
    libraries,
  });
  opened.push(peers);
  expect(peers.records.map(({ name, status }) => `${name} ${status}`)).toEqual([
    "openblas missing",
    "blis missing",
    "onednn missing",
    "pytorch missing",
    "torch.compile missing",
    "llama.cpp missing",
  ]);
  for (const peer of peers.records) {
    expect(peer.status === "missing" && peer.reason).toMatch(/no.such/);
  }
});
