// node node.mjs RUNTIME BUNDLE ...: the golden examples of bundles in onnxruntime-node or onnxruntime-web.

import { readFile } from "node:fs/promises";
import { replay } from "./replay.mjs";

const [runtime, ...bundles] = process.argv.slice(2);
const ort = await import(runtime);
if (runtime === "onnxruntime-web") globalThis.ort = ort;
const found = [];
for (const bundle of bundles) {
  const model = new Uint8Array(await readFile(`${bundle}/model.onnx`));
  found.push(await replay(ort, bundle, model, await readFile(`${bundle}/golden.jsonl`, "utf8")));
}
console.log(JSON.stringify(found));
