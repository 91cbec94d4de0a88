/** Disposables that are freed together, and not kept from garbage collection until then. */
export class WeakHolders implements Disposable {
  readonly #refs = new Set<WeakRef<Disposable>>();
  #sweepAt = 16;

  add(holder: Disposable): void {
    if (this.#refs.size >= this.#sweepAt) {
      for (const ref of this.#refs) if (ref.deref() === undefined) this.#refs.delete(ref);
      this.#sweepAt = 2 * this.#refs.size + 16;
    }
    this.#refs.add(new WeakRef(holder));
  }

  [Symbol.dispose](): void {
    for (const ref of this.#refs) ref.deref()?.[Symbol.dispose]();
    this.#refs.clear();
  }
}
