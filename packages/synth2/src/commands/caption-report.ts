import { writeReport } from "@trefoil/core";
import { encodePng } from "../data/index.js";
import type { PairedDataset } from "../types.js";
import type { CaptionerScores } from "../vlm/index.js";
import { ATTRIBUTES } from "../world/index.js";

/** Pictures on the page. */
const shown = 48;

/** A page of pictures beside what the model and people say of them, and the scores of all. */
export async function writeCaptionReport(
  path: string,
  { data, captions, scores }: { data: PairedDataset; captions: readonly string[]; scores: CaptionerScores },
): Promise<void> {
  const { size } = data;
  const images = await Promise.all(
    captions.slice(0, shown).map(async (caption, i) => {
      const { image, captions: human } = await data.get(i);
      return { png: await encodePng(image, size, size), alt: human[0]!, label: `${caption} (people: ${human[0]})` };
    }),
  );
  const { attributes, pictures, cider, bleu, rougeL } = scores;
  await writeReport(path, {
    title: "Captions of pictures",
    facts: [
      { label: "pictures", value: pictures },
      { label: "CIDEr × 100", value: (100 * cider).toFixed(1) },
      { label: "BLEU-4", value: bleu[3]!.toFixed(3) },
      { label: "ROUGE-L", value: rougeL.toFixed(3) },
    ],
    sections: [
      { kind: "images", title: "Pictures and captions", images, size: 144 },
      ...(attributes
        ? [
            {
              kind: "bars" as const,
              title: "What captions say that is true",
              y: { label: "share of what is said" },
              categories: [...ATTRIBUTES],
              series: [
                {
                  name: "true",
                  values: ATTRIBUTES.map((name) => attributes.accuracy[name]).map((value) =>
                    Number.isFinite(value) ? value : null,
                  ),
                },
              ],
            },
          ]
        : []),
    ],
  });
}
