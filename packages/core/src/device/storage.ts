import { TrefoilError } from "@trefoil/native";
import type { Device } from "./device.js";

/** A device buffer that JavaScript owns. Freed by `dispose()`; garbage collection is only the net. */
export class Storage implements Disposable {
  readonly device: Device;
  readonly bytes: number;
  #handle: number | undefined;

  constructor(device: Device, bytes: number) {
    this.device = device;
    this.bytes = bytes;
    this.#handle = device.addon.createBuffer(device.handle, bytes);
    net.register(this, { device, handle: this.#handle }, this);
  }

  get handle(): number {
    if (this.#handle === undefined) throw new TrefoilError("TREFOIL_INVALID_USE", "this value was disposed");
    return this.#handle;
  }

  get disposed(): boolean {
    return this.#handle === undefined;
  }

  /** Copies host data in; ordered with the runs around it. */
  write(data: ArrayBufferView): void {
    this.device.addon.writeBuffer(this.handle, data);
  }

  /** Fills `target` after every run enqueued so far. */
  read(target: ArrayBufferView): Promise<void> {
    return this.device.addon.readBuffer(this.handle, target);
  }

  dispose(): void {
    if (this.#handle === undefined) return;
    net.unregister(this);
    this.device.addon.releaseBuffer(this.#handle);
    this.#handle = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const net = new FinalizationRegistry<{ device: Device; handle: number }>(({ device, handle }) => {
  device.addon.releaseBuffer(handle);
});
