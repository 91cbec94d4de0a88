import { expect, test } from "vitest";
import { runInMemory } from "./run-in-memory.js";
import { finetune } from "./sample-command.js";

test("command help lists every field with flag, type, unit, default and meaning", async () => {
  const { code, stdout, stderr } = await runInMemory([finetune], ["finetune", "--help"]);
  expect(code).toBe(0);
  expect(stderr).toBe("");
  expect(stdout).toMatchInlineSnapshot(`
    "btx finetune: Train the router and the experts of a mixed model.

    Reads a folder that btx mix wrote and continues its training with top-k routing.

    Usage
      btx finetune [--config <file.yaml>] [flags]

    Flags
      --out <folder>                       Folder to write.
                                           string, not empty · required
      --experts.<name> <folder>            Checkpoint folder of each expert.
                                           object of name: string · default empty
      --domains <code|prose|math,…>        Domains to train on.
                                           list of code, prose, math · commas or repeat · default
                                           code,prose
      --[no-]resume                        Continue from the newest checkpoint.
                                           default false
      --seed <integer>                     Random seed; null draws one.
                                           integer or null · default null
      --top-k <integer>                    Experts for each token.
                                           integer ≥ 1 · default 2
      --limits <JSON>                      Caps on the data of a domain.
                                           list of object with domain, bytes · repeat · optional

    train: Training
      --train.steps <integer>              Optimiser updates.
                                           integer > 0 · unit steps · default 1000
      --train.learning-rate <number>       Peak learning rate, reached after warm-up.
                                           number > 0 · default 0.0003
      --train.warmup <auto|integer>        Warm-up length.
                                           auto or integer ≥ 0 · unit steps · default auto

    train.schedule: Learning-rate schedule.
      --train.schedule.kind <cosine|step>  Shape of the learning-rate curve.
                                           one of cosine, step · default cosine

    train.schedule with kind = cosine
      --train.schedule.floor <number>      Final rate as a share of the peak.
                                           number ≥ 0, ≤ 1 · default 0.1

    train.schedule with kind = step
      --train.schedule.every <integer>     Distance between drops.
                                           integer > 0 · unit steps · required
      --train.schedule.factors <number,…>  Factor of each drop; the last repeats.
                                           list of number · commas or repeat · default 0.5

    sampling: Samples printed during training (optional)
      --sampling.temperature <number>      0 is greedy.
                                           number ≥ 0 · required
      --sampling.betas <number,number>     list (number; number) · optional

    Common flags
      --config <file.yaml>                 Read values from a YAML file; flags win over it. May be
                                           repeated.
      --print-config                       Print the resolved configuration as YAML and stop.
      --json-schema                        Print the configuration's JSON Schema, for editors, and
                                           stop.
      --device <name>                      Where to compute: cpu, cuda or cuda:1. Default:
                                           TREFOIL_DEVICE, else cpu.
      --precision <name>                   How products are computed: f32, bf16-products (operands are
                                           rounded) or, on CUDA, bf16. Default: TREFOIL_PRECISION, else
                                           f32 on the CPU and bf16 on CUDA.
      --quiet                              Show no progress, only warnings and errors.
      -h, --help                           Show this help.

    Examples
      btx finetune --out runs/moe --train.steps 200
    "
  `);
  expect(await runInMemory([finetune], ["help", "finetune"])).toEqual({ code, stdout, stderr });
});

test("program help lists commands with their summaries", async () => {
  const { code, stdout } = await runInMemory([finetune], ["--help"]);
  expect(code).toBe(0);
  expect(stdout).toMatchInlineSnapshot(`
    "btx 0.1.0: Branch-Train-MiX

    Usage
      btx <command> [--config <file.yaml>] [flags]

    Commands
      finetune  Train the router and the experts of a mixed model.

    Run btx help <command> for every flag of a command.
    "
  `);
});

test("no command is a usage error that shows the help on stderr", async () => {
  const { code, stdout, stderr } = await runInMemory([finetune], []);
  expect(code).toBe(2);
  expect(stdout).toBe("");
  expect(stderr).toContain("Commands\n  finetune");
});

test("--version prints the bare version", async () => {
  expect(await runInMemory([finetune], ["--version"])).toEqual({ code: 0, stdout: "0.1.0\n", stderr: "" });
});
