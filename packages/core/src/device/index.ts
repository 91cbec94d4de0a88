export {
  Device,
  type DeviceOptions,
  DeviceProgram,
  defaultDevice,
  device,
  type RunInput,
  type RunOutput,
  setDefaultDevice,
} from "./device.js";
export { Storage } from "./storage.js";
