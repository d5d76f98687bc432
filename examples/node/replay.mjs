// node replay.mjs BUNDLE ...: replays the golden examples; the exit code is 1 where a bundle's differ.

import { parseArgs } from "node:util";
import { inWords } from "../browser/classifier.mjs";
import { fail, open, runtimeOption } from "./bundle.mjs";

const { values, positionals: bundles } = parseArgs({ allowPositionals: true, options: runtimeOption });
if (bundles.length === 0) fail("expected a bundle's folder: node replay.mjs BUNDLE ...", 2);
for (const bundle of bundles) {
  try {
    const classifier = await open(bundle, values.runtime);
    const result = await classifier.replay();
    console.log(`${bundle}: ${result.holds ? "ok" : "DIFFERS"}, ${inWords(result)}, bundle ${classifier.id}`);
    if (!result.holds) process.exitCode = 1;
  } catch (error) {
    fail(`${bundle}: ${error.message}`);
  }
}
