// Replays the golden examples of bundles: all at once, and one after the other. Runs in Node and in a browser.

export async function replay(ort, name, model, golden) {
  const session = await ort.InferenceSession.create(model, { executionProviders: [ort === globalThis.ort ? "wasm" : "cpu"] });
  const examples = golden.split("\n").filter(Boolean).map((line) => JSON.parse(line));
  let largest = 0;
  for (const size of [examples.length, 1]) {
    for (let start = 0; start < examples.length; start += size) {
      const some = examples.slice(start, start + size);
      const text = new ort.Tensor("string", some.map((each) => each.text), [some.length]);
      const { log_probs, label } = await session.run({ text });
      const labels = log_probs.data.length / some.length;
      some.forEach((each, row) => {
        if (label.data[row] !== each.label) throw new Error(`${name}: ${each.text}: ${label.data[row]}`);
        each.log_probs.forEach((expected, column) => {
          const found = log_probs.data[row * labels + column];
          const share = Math.abs(found - expected) / (1e-5 + 1e-5 * Math.abs(expected));
          largest = Math.max(largest, Number.isNaN(share) ? Infinity : share);
        });
      });
    }
  }
  return { name, examples: examples.length, share_of_bound: largest };
}
