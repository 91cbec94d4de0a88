import { defineConfig } from "vitest/config";

// Native code is tested in forked processes: a crash then names its file and takes nothing else down.
export default defineConfig({ test: { pool: "forks", include: ["test/**/*.test.ts"], testTimeout: 30_000 } });
