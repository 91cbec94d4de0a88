export {
  Device,
  type DeviceOptions,
  DeviceProgram,
  defaultDevice,
  device,
  type Precision,
  precisions,
  type RunInput,
  type RunOutput,
  setDefaultDevice,
} from "./device.js";
export { DeviceUnavailableError } from "./errors.js";
export { OutOfMemoryError } from "./host-memory.js";
export { MappedFile } from "./mapped-file.js";
export { Storage } from "./storage.js";
export {
  meanOfStored,
  type StoredInFile,
  type StoredMean,
  type StoredWeights,
  storedChecksums,
  writeStored,
} from "./stored.js";
