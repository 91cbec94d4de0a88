export {
  ATTRIBUTES,
  type Attribute,
  type AttributeAccuracy,
  attributeAccuracy,
  checkMeaning,
  type Tally,
  type Verdict,
} from "./accuracy.js";
export { WorldDataset, type WorldOptions } from "./dataset.js";
export { describe } from "./describe.js";
export { drawPicture } from "./draw.js";
export { judgePicture } from "./judge.js";
export { type CaptionMeaning, parseCaption, type SaidObject } from "./parse.js";
export { Choices } from "./random.js";
export {
  classesOfWorld,
  drawScene,
  isHeldOut,
  isNovel,
  type SceneRange,
  SPLITS,
  type Split,
  shareAmong,
  worldClasses,
} from "./scene.js";
export { WORLDS, type World, type WorldName } from "./worlds.js";
