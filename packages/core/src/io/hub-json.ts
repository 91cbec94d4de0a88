/** Fields of `config.json` that transformers declares as floats. From version 5 on it refuses `0` where it wants `0.0`. */
const floatFields = [
  "attention_dropout",
  "factor",
  "high_freq_factor",
  "initializer_range",
  "low_freq_factor",
  "rms_norm_eps",
  "rope_theta",
  "router_aux_loss_coef",
  "router_jitter_noise",
];
const wholeFloat = new RegExp(`^( *"(?:${floatFields.join("|")})": -?\\d+)(,?)$`, "gm");

/** JSON as the Hugging Face libraries write it: two spaces of indent, whole-number floats with `.0`, a newline at the end. */
export function hubJson(value: object): string {
  return `${JSON.stringify(value, null, 2).replace(wholeFloat, "$1.0$2")}\n`;
}
