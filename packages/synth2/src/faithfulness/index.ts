export { type Faithfulness, type FaithfulnessOptions, measureFaithfulness } from "./faithfulness.js";
