/** Signals that ask a command to stop, with the exit code that shells expect for each. */
const STOP_SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const;
type StopSignal = keyof typeof STOP_SIGNALS;

export interface Interruption extends Disposable {
  readonly signal: AbortSignal;
  /** Exit code of the signal that arrived, or undefined. */
  readonly exitCode: number | undefined;
}

/**
 * The first SIGINT or SIGTERM aborts the returned signal, the second kills the process at once, as if nothing had
 * been listening. `onFirst` is called once, to tell the user.
 */
export function listenForInterruption(onFirst: (signal: StopSignal) => void): Interruption {
  const controller = new AbortController();
  let exitCode: number | undefined;
  const names = Object.keys(STOP_SIGNALS) as StopSignal[];
  const handle = (name: StopSignal) => {
    if (controller.signal.aborted) {
      stopListening();
      process.kill(process.pid, name);
      return;
    }
    exitCode = STOP_SIGNALS[name];
    onFirst(name);
    controller.abort();
  };
  const stopListening = () => {
    for (const name of names) process.off(name, handle);
  };
  for (const name of names) process.on(name, handle);
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
    [Symbol.dispose]: stopListening,
  };
}
