// npm run test:sanitize: the C++ tests and the emulated CUDA kernels under AddressSanitizer and UBSan, in a build folder of their own.
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { main, root } from "./setup/index.mjs";
import { runInteractive } from "./setup/phase.mjs";
import { checkRequirements } from "./setup/requirements.mjs";

await main(async () => {
  checkRequirements(process.env);
  const native = join(root, "native");
  const folder = join(native, "build-sanitize");
  const jobs = String(availableParallelism());
  const steps = [
    ["cmake", "-S", native, "-B", folder, "-DTREFOIL_SANITIZE=ON"],
    ["cmake", "--build", folder, "--target", "trefoil_tests", "--parallel", jobs],
    [join(folder, "trefoil_tests")],
    [join(folder, "trefoil_tests"), "--backend=emulated"],
  ];
  for (const [file, ...args] of steps) {
    const status = await runInteractive(file, args, { cwd: root, env: process.env });
    if (status !== 0) return status;
  }
  return 0;
});
