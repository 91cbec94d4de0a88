export {
  type QuickstartArm,
  type QuickstartOptions,
  type QuickstartResult,
  type QuickstartSettings,
  quickstart,
} from "./quickstart.js";
