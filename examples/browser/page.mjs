// The page: what is typed goes to the classifier, and its labels are shown as bars.

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { Classifier, inWords } from "./classifier.mjs";

const FEW = 5;
const shown = Object.fromEntries(Array.from(document.querySelectorAll("[id]"), (element) => [element.id, element]));
const asked = new URLSearchParams(location.search);
const bundle = new URL(`${asked.get("bundle") ?? "bundle"}/`, location.href);
let everyLabel = false;
let lastRun = 0;

async function read(name) {
  const answer = await fetch(new URL(name, bundle));
  if (!answer.ok) throw new Error(`${new URL(name, bundle)} was answered with ${answer.status}; is the bundle served there?`);
  return new Uint8Array(await answer.arrayBuffer());
}

function row({ label, prob, logProb }) {
  const item = document.createElement("li");
  item.style.setProperty("--share", `${100 * prob}%`);
  item.dataset.logProb = logProb;
  item.append(...[label, percent(prob)].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
  return item;
}

function percent(prob) {
  return prob > 0 && prob < 0.001 ? "< 0.1%" : `${(100 * prob).toFixed(1)}%`;
}

async function answer(classifier) {
  const run = ++lastRun;
  const text = shown.text.value;
  let labels;
  const began = performance.now();
  try {
    [labels] = await classifier.classify([text]);
    shown.problem.hidden = true;
  } catch (error) {
    labels = [];
    shown.problem.textContent = `Not classified: ${error.message}`;
    shown.problem.hidden = false;
  }
  // The next letter may have been answered already.
  if (run !== lastRun) return;
  shown.answer.hidden = labels.length === 0;
  shown.speed.textContent = `${(performance.now() - began).toFixed(1)} ms`;
  shown.labels.replaceChildren(...labels.slice(0, everyLabel ? labels.length : FEW).map(row));
  shown.more.hidden = labels.length <= FEW;
  shown.more.textContent = everyLabel ? `Show the first ${FEW}` : `Show all ${labels.length}`;
  shown.spoken.textContent = labels.length ? `${labels[0].label}, ${percent(labels[0].prob)}` : "";
}

function offer(classifier) {
  const again = () => answer(classifier);
  shown.text.addEventListener("input", again);
  shown.more.addEventListener("click", () => {
    everyLabel = !everyLabel;
    again();
  });
  let next = 0;
  shown.example.addEventListener("click", () => {
    shown.text.value = classifier.golden[next++ % classifier.golden.length].text;
    again();
  });
  shown.example.disabled = false;
}

function about(classifier) {
  shown["bundle-id"].textContent = classifier.id ?? "unknown: browsers hash on localhost and over https alone";
  shown.model.textContent = `${classifier.labels.length} labels, onnxruntime-web ${ort.env.versions.web}`;
  shown.about.hidden = false;
}

function tell(state, text) {
  shown.replay.dataset.state = state;
  shown.replay.textContent = text;
}

async function main() {
  ort.env.wasm.wasmPaths = new URL("node_modules/onnxruntime-web/dist/", location.href).href;
  // More threads want headers that a plain file server does not send, and gain nothing on one text.
  ort.env.wasm.numThreads = 1;
  const classifier = await Classifier.load(ort, read);
  about(classifier);
  shown.text.value ||= asked.get("text") ?? "";
  await answer(classifier);
  offer(classifier);
  tell("busy", "Replaying the golden examples …");
  const result = await classifier.replay();
  const words = inWords(result);
  tell(result.holds ? "ok" : "failed", words[0].toUpperCase() + words.slice(1));
}

main().catch((error) => tell("failed", `The model does not run here: ${error.message}`));
