export { Device, type DeviceOptions, DeviceProgram, defaultDevice, device, setDefaultDevice } from "./device.js";
export { Storage } from "./storage.js";
