export { type Command, type CommandContext, type ConfigSchema, defineCommand } from "./command.js";
export { UsageError } from "./errors.js";
export { jsonSchema } from "./json-schema.js";
export { type ConfigSources, resolveConfig } from "./resolve.js";
export { type CliOptions, runCli } from "./run-cli.js";
export { countField, folderField, outputFields, runOf } from "./stage-fields.js";
