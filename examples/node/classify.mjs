// node classify.mjs [--top-k N] BUNDLE TEXT ...: prints each text's labels with their probabilities.

import { parseArgs } from "node:util";
import { fail, open, runtimeOption } from "./bundle.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { ...runtimeOption, "top-k": { type: "string", default: "3" } },
});
const [bundle, ...texts] = positionals;
const topK = Number(values["top-k"]);
if (texts.length === 0 || !(topK >= 1)) {
  fail("expected a bundle's folder and one text or more: node classify.mjs [--top-k N] BUNDLE TEXT ...", 2);
}
try {
  const classifier = await open(bundle, values.runtime);
  (await classifier.classify(texts)).forEach((labels, row) => {
    console.log(JSON.stringify(texts[row]));
    for (const { label, prob } of labels.slice(0, topK)) console.log(`  ${prob.toFixed(4)}  ${label}`);
  });
} catch (error) {
  fail(`${bundle}: ${error.message}`);
}
