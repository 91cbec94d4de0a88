import { defineCommand } from "@trefoil/core";
import { z } from "zod";
import { LanguageModel } from "../captions/index.js";
import { openDataset } from "../data/index.js";
import { requireSameTokenizer } from "../generator/index.js";
import { toUnit } from "../images/pixels.js";
import { VqImageTokenizer } from "../tokenizer/index.js";
import { Captioner, CodedDataset, openVlm, scoreDataset } from "../vlm/index.js";
import { writeCaptionReport } from "./caption-report.js";
import { count, dataField, folder } from "./fields.js";
import { readPicture } from "./read-picture.js";

const modelFields = {
  vlm: folder("Vision-language model."),
  tokenizer: folder("Image tokenizer that it was trained with."),
  languageModel: folder("Language model that it was trained with."),
  maxTokens: count(32, "Tokens of a caption at most.").meta({ unit: "tokens" }),
};

interface ModelFolders {
  vlm: string;
  tokenizer: string;
  languageModel: string;
  maxTokens: number;
}

/** Opens the three models for as long as `use` runs. */
async function withCaptioner<R>(
  folders: ModelFolders,
  batch: number,
  use: (captioner: Captioner, images: VqImageTokenizer) => Promise<R>,
): Promise<R> {
  using images = await VqImageTokenizer.open(folders.tokenizer);
  using language = await LanguageModel.open(folders.languageModel);
  const { model, tokenizerHash } = await openVlm(folders.vlm, language);
  try {
    requireSameTokenizer(folders.vlm, tokenizerHash, images.hash);
    using captioner = new Captioner(model, language, { maxTokens: folders.maxTokens, batch });
    return await use(captioner, images);
  } finally {
    model.dispose();
  }
}

export const captionCommand = defineCommand({
  name: "caption",
  summary: "Write captions of pictures.",
  description: "Reads PNG, JPEG and WebP; the middle square of a picture is scaled to the size of the image tokenizer.",
  examples: [
    "synth2 caption cat.png dog.jpg --vlm models/vlm --tokenizer models/tokenizer --language-model models/language",
  ],
  schema: z.strictObject({
    image: z.array(z.string().min(1)).min(1).describe("Pictures.").meta({ placeholder: "file", positional: true }),
    ...modelFields,
  }),
  run: async (config, { stdout, signal }) => {
    await withCaptioner(config, Math.min(16, config.image.length), async (captioner, images) => {
      const { imageSize } = images;
      const pixels = new Float32Array(config.image.length * imageSize ** 2 * 3);
      for (const [i, path] of config.image.entries()) {
        toUnit(await readPicture(path, imageSize), pixels, i * imageSize ** 2 * 3);
      }
      const codes = await images.encode(pixels, config.image.length);
      const captions = await captioner.caption(images.embed(codes), config.image.length, { signal });
      config.image.forEach((path, i) => {
        stdout.write(`${path}: ${captions[i]}\n`);
      });
    });
  },
});

export const evaluateCommand = defineCommand({
  name: "evaluate",
  summary: "Score a vision-language model's captions of pictures.",
  description:
    "Prints JSON: CIDEr-D, BLEU-1 to 4, ROUGE-L against the pictures' own captions, and for the built-in world how much of what captions say of objects is true.",
  examples: [
    "synth2 evaluate --data world:test:500 --vlm models/vlm --tokenizer models/tokenizer --language-model models/language",
  ],
  schema: z.strictObject({
    data: dataField,
    ...modelFields,
    batch: count(32, "Pictures captioned at a time."),
    report: z
      .string()
      .min(1)
      .describe("HTML page to write, with the first pictures beside their captions.")
      .meta({ placeholder: "file.html" })
      .optional(),
  }),
  run: async (config, { stdout, progress, signal }) => {
    await withCaptioner(config, config.batch, async (captioner, images) => {
      await using data = await openDataset(config.data, images.imageSize);
      const coded = await CodedDataset.encode(data.dataset, images, { progress, signal });
      const captions = await captioner.captionAll(coded, { progress, signal });
      const scores = scoreDataset(captions, coded);
      if (captions.length === 1)
        progress.warn("CIDEr of one picture is 0: it weighs words by how few of the scored pictures have them");
      stdout.write(`${JSON.stringify(scores, null, 2)}\n`);
      if (config.report !== undefined)
        await writeCaptionReport(config.report, { data: data.dataset, captions, scores });
    });
  },
});
