export { writeFileAtomic } from "./atomic-file.js";
export {
  type CheckpointContent,
  checkpointSteps,
  type JsonValue,
  type LoadedCheckpoint,
  loadCheckpoint,
  loadLatestCheckpoint,
  saveCheckpoint,
} from "./checkpoint.js";
export { dtypeBytes, type SafetensorsDtype } from "./dtype.js";
export {
  CheckpointError,
  type CheckpointErrorCode,
  ModelFolderError,
  type ModelFolderErrorCode,
  SafetensorsError,
  type SafetensorsErrorCode,
} from "./errors.js";
export type { FilePlace } from "./file-place.js";
export { bf16ToF32, decodeFloats, encodeFloats, f16ToF32, f32ToBf16, f32ToF16 } from "./half.js";
export {
  type ModelFamily,
  parseTransformerConfig,
  type RopeScaling,
  readTransformerConfig,
  type TransformerConfig,
} from "./hf-config.js";
export {
  beyondTransformers,
  type ConfigDtype,
  generationConfigJson,
  llamaConfigJson,
  mixtralConfigJson,
  type TransformerConfigFields,
} from "./hf-config-write.js";
export { hubJson } from "./hub-json.js";
export { ModelFolder, readJsonFile } from "./model-folder.js";
export { ModelFolderWriter, type ModelFolderWriterOptions, temporaryFolderFor } from "./model-folder-writer.js";
export { reasonOf } from "./reason.js";
export { loadSafetensors, SafetensorsFile } from "./safetensors.js";
export type { TensorDeclaration, TensorInfo } from "./safetensors-header.js";
export { SafetensorsWriter, type StoredTensor, saveSafetensors } from "./safetensors-writer.js";
