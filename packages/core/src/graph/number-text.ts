/** A number in a key: -0 is another value than 0, which 1 / x tells. */
export const numberText = (value: number): string => (Object.is(value, -0) ? "-0" : String(value));
