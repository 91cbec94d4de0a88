import { expect, it } from "vitest";
import { dataFields } from "../../src/commands/fields.js";

it("a domain's name is that of a folder of its own", () => {
  const parses = (name: string) => dataFields.safeParse({ domains: { [name]: "@code" } }).success;
  expect(["code", "c++", "v1.2-b", "_x", ".", "..", ".git", "-x", "a/b", ""].filter(parses)).toEqual([
    "code",
    "v1.2-b",
    "_x",
  ]);
});
