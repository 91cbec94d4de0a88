/** The largest length of a list, which may have more items than a call may have arguments; 0 of none. */
export const longestOf = <T>(items: readonly T[], length: (item: T) => number): number =>
  items.reduce((longest, item) => Math.max(longest, length(item)), 0);
