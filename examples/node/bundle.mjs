// Opens a bundle's folder in Node.

import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { Classifier } from "../browser/classifier.mjs";

/** The option that both programs take: onnxruntime-web runs in Node too, where no native package fits. */
export const runtimeOption = { runtime: { type: "string", default: "onnxruntime-node" } };

export async function open(bundle, runtime) {
  const ort = await import(runtime);
  // More threads gain nothing on short texts.
  if (runtime === "onnxruntime-web") ort.env.wasm.numThreads = 1;
  return Classifier.load(ort, async (name) => new Uint8Array(await readFile(join(bundle, name))));
}

/** Ends the program with what is wrong in one line, and 2 where it was called in the wrong way. */
export function fail(message, code = 1) {
  console.error(`error: ${message}`);
  process.exit(code);
}
