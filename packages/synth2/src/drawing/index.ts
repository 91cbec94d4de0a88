export {
  type DrawingOptions,
  type DrawnPictures,
  openPictureGenerator,
  type PictureGenerator,
  type PictureSampler,
  pictureSampler,
} from "./picture-sampler.js";
