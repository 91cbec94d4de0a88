// llama.cpp through node-llama-cpp as a peer: one JSON request a line, one JSON answer a line, as torch_peer.py.
// Argument: a folder where node-llama-cpp is installed.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const answer = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

async function open(folder) {
  const at = join(folder, "node_modules", "node-llama-cpp");
  const { version } = JSON.parse(await readFile(join(at, "package.json"), "utf8"));
  const { getLlama } = await import(pathToFileURL(join(at, "dist", "index.js")).href);
  // The prebuilt binary; what it says goes to standard error, not between our lines.
  const options = { gpu: false, build: "never", skipDownload: true, logLevel: "error", maxThreads: 0 };
  const llama = await getLlama({ ...options, logger: (_level, text) => process.stderr.write(text) });
  return { llama, version: `node-llama-cpp ${version}, llama.cpp ${llama.llamaCppRelease?.release ?? "of it"}` };
}

/** Greedy tokens after each prompt, every sequence in the same batches. */
async function prepare(llama, { file, prompts, newTokens }, threads) {
  const model = await llama.loadModel({ modelPath: file, gpuLayers: 0 });
  const length = prompts[0].length + newTokens;
  const context = await model.createContext({
    contextSize: length,
    batchSize: prompts.length * prompts[0].length,
    sequences: prompts.length,
    threads: { ideal: threads, min: threads },
  });
  const sequences = prompts.map(() => context.getSequence());
  const generate = async (sequence, prompt) => {
    await sequence.clearHistory();
    const tokens = [];
    for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
      tokens.push(token);
      if (tokens.length === newTokens) break;
    }
    if (tokens.length < newTokens) throw new Error(`generated ${tokens.length} tokens instead of ${newTokens}`);
    return tokens;
  };
  return {
    run: () => Promise.all(sequences.map((sequence, row) => generate(sequence, prompts[row]))),
    close: async () => {
      await context.dispose();
      await model.dispose();
    },
  };
}

let llama;
try {
  const opened = await open(process.argv[2]);
  llama = opened.llama;
  answer({ version: opened.version });
} catch (error) {
  answer({ missing: `${error.message}; install node-llama-cpp in a folder and name it` });
  process.exit(0);
}

let work;
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  try {
    if (request.define) {
      await work?.close();
      work = undefined;
      work = await prepare(llama, request.define, request.threads);
      answer({ tokens: await work.run() });
    } else {
      const begun = performance.now();
      for (let i = 0; i < request.run; i++) await work.run();
      answer({ seconds: (performance.now() - begun) / 1000 / request.run });
    }
  } catch (error) {
    answer({ error: `${error.name}: ${error.message}` });
  }
}
process.exit(0);
