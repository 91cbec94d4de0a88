/** A place in an open file, for native code. The file must stay open until the promise of the call that it is given to settles. */
export interface FilePlace {
  readonly descriptor: number;
  readonly position: number;
}
