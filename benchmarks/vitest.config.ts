import { defineConfig, mergeConfig } from "vitest/config";
import base from "../vitest.base.js";

// The first run builds the C++ programs.
export default mergeConfig(base, defineConfig({ test: { testTimeout: 180_000 } }));
