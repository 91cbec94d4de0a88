import { TrefoilError } from "../tensor/errors.js";

export type SafetensorsErrorCode =
  | "SAFETENSORS_TRUNCATED"
  | "SAFETENSORS_HEADER_TOO_LARGE"
  | "SAFETENSORS_INVALID_HEADER"
  | "SAFETENSORS_DUPLICATE_NAME"
  | "SAFETENSORS_UNKNOWN_DTYPE"
  | "SAFETENSORS_UNSUPPORTED_DTYPE"
  | "SAFETENSORS_SIZE_MISMATCH"
  | "SAFETENSORS_OVERLAP"
  | "SAFETENSORS_GAP"
  | "SAFETENSORS_UNCOVERED_TAIL"
  | "SAFETENSORS_UNKNOWN_TENSOR"
  | "SAFETENSORS_OUT_OF_RANGE"
  | "SAFETENSORS_INCOMPLETE"
  | "SAFETENSORS_CLOSED";

/** A safetensors file that is malformed, or used against its header. */
export class SafetensorsError extends TrefoilError {
  declare readonly code: SafetensorsErrorCode;

  constructor(
    code: SafetensorsErrorCode,
    readonly path: string,
    message: string,
    /** The tensor at fault, where there is one. */
    readonly tensor?: string,
    options?: ErrorOptions,
  ) {
    super(code, `${path}: ${message}`, options);
  }
}

export type ModelFolderErrorCode =
  | "MODEL_FOLDER_MISSING"
  | "MODEL_FOLDER_INVALID_INDEX"
  | "MODEL_FOLDER_UNSAFE_PATH"
  | "MODEL_FOLDER_MISSING_SHARD"
  | "MODEL_FOLDER_MISSING_TENSOR"
  | "MODEL_FOLDER_DUPLICATE_TENSOR"
  | "MODEL_FOLDER_UNLISTED_TENSOR"
  | "MODEL_FOLDER_UNKNOWN_TENSOR"
  | "MODEL_FOLDER_WRONG_SHAPE"
  | "MODEL_FOLDER_EXISTS"
  | "MODEL_FOLDER_INVALID_CONFIG"
  | "MODEL_FOLDER_UNSUPPORTED_CONFIG";

/** A Hugging Face model folder that cannot be read or written. */
export class ModelFolderError extends TrefoilError {
  declare readonly code: ModelFolderErrorCode;

  constructor(
    code: ModelFolderErrorCode,
    readonly path: string,
    message: string,
    options?: ErrorOptions,
  ) {
    super(code, `${path}: ${message}`, options);
  }
}

export type CheckpointErrorCode =
  | "CHECKPOINT_DISK_FULL"
  | "CHECKPOINT_WRITE_FAILED"
  | "CHECKPOINT_NONE_READABLE"
  | "CHECKPOINT_UNREADABLE";

/** A training checkpoint that could not be written or read. Earlier checkpoints are untouched. */
export class CheckpointError extends TrefoilError {
  declare readonly code: CheckpointErrorCode;

  constructor(
    code: CheckpointErrorCode,
    readonly path: string,
    message: string,
    /** Size of the checkpoint being written, in bytes. */
    readonly bytesNeeded?: number,
    options?: ErrorOptions,
  ) {
    super(code, `${path}: ${message}`, options);
  }
}
