import { tokeniseCaption } from "../metrics/index.js";
import type { PairedDataset, SceneAttributes } from "../types.js";
import { worldClasses } from "../world/index.js";

/** A human caption and the classes of its picture. */
export interface ClassedCaption {
  caption: string;
  classes: readonly string[];
}

/** What the built-in language model continues with a caption of the class. */
export const classPrompt = (name: string): string => `${name}:`;

/** Classes of a picture: those of its scene where it is known, else those that the caption names word by word. */
function classesOf(caption: string, attributes: SceneAttributes | undefined, classes: readonly string[]): string[] {
  if (attributes) return [...new Set(attributes.objects.map(({ colour, shape }) => `${colour} ${shape}`))];
  const said = ` ${tokeniseCaption(caption).join(" ")} `;
  return classes.filter((name) => said.includes(` ${tokeniseCaption(name).join(" ")} `));
}

/** All captions of a dataset with their classes. @param classes looked for in captions; those of the built-in world unless given */
export async function classedCaptions(
  data: PairedDataset,
  classes: readonly string[] = worldClasses,
): Promise<ClassedCaption[]> {
  const all: ClassedCaption[] = [];
  for (let i = 0; i < data.length; i++) {
    const { captions, attributes } = await data.get(i);
    for (const caption of captions) all.push({ caption, classes: classesOf(caption, attributes, classes) });
  }
  return all;
}
