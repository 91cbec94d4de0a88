/** Set-up cannot go on; `message` is one sentence that says what to install or do, and how. */
export class SetupError extends Error {
  /** @param {string} message @param {string} [log] the output behind it, of which the end is shown */
  constructor(message, log) {
    super(message);
    this.name = "SetupError";
    this.log = log;
  }
}
