// A bundle's model in JavaScript: the same code in Node and in browsers, on any onnxruntime of the two.

/** How far a log-probability may be from the reference's: ATOL + RTOL * |reference|, as in `verify`. */
const ATOL = 1e-5;
const RTOL = 1e-5;

const utf8 = new TextDecoder("utf-8", { fatal: true });

export class Classifier {
  /**
   * Loads a bundle, and checks each file that it uses against the manifest.
   *
   * `read(name)` resolves to the bytes of one of the bundle's files, as a Uint8Array; `ort` is the module
   * onnxruntime-node or onnxruntime-web. `id` is the bundle's ID, or null on pages that are neither from
   * localhost nor from https: there browsers have no SHA-256, and nothing but the files' sizes is checked.
   */
  static async load(ort, read, sessionOptions = {}) {
    const manifestBytes = await read("manifest.json");
    const manifest = JSON.parse(utf8.decode(manifestBytes));
    const checked = async (name) => {
      const bytes = await read(name);
      const { size, sha256: expected } = manifest.files[name];
      const found = await sha256(bytes);
      if (bytes.length !== size || (found !== null && found !== expected)) {
        throw new Error(`${name} is not the file that the manifest names: expected ${size} bytes with SHA-256 ` +
          `${expected}, found ${bytes.length} with ${found ?? "an unknown one"}; copy the bundle again`);
      }
      return bytes;
    };
    const [model, labels, golden] = await Promise.all(
      ["model.onnx", "labels.jsonl", "golden.jsonl"].map(checked),
    );
    const session = await ort.InferenceSession.create(model, sessionOptions);
    const id = await sha256(manifestBytes);
    return new Classifier(ort, session, id, jsonLines(labels), jsonLines(golden));
  }

  constructor(ort, session, id, labels, golden) {
    this.ort = ort;
    this.session = session;
    this.id = id;
    this.labels = labels;
    this.golden = golden;
  }

  /**
   * The most probable label of each text, and its log-probabilities in the order of `labels`.
   *
   * A text with NUL is refused: onnxruntime-web would cut it there and classify what is left of it. So is half
   * a surrogate pair, which UTF-8 cannot carry.
   */
  async run(texts) {
    texts.forEach((text, row) => {
      const problem = text.includes("\0") ? "a NUL character" : text.isWellFormed() ? null : "half a surrogate pair";
      if (problem !== null) throw new Error(`text ${row + 1} of ${texts.length} holds ${problem}; leave it out`);
    });
    const text = new this.ort.Tensor("string", texts, [texts.length]);
    const { log_probs, label } = await this.session.run({ text });
    const width = this.labels.length;
    return texts.map((_, row) => ({
      label: label.data[row],
      logProbs: log_probs.data.slice(row * width, (row + 1) * width),
    }));
  }

  /** For each text its labels, the most probable first: `{ label, prob, logProb }`. */
  async classify(texts) {
    return (await this.run(texts)).map(({ logProbs }) =>
      Array.from(logProbs, (logProb, column) => ({ label: this.labels[column], prob: Math.exp(logProb), logProb }))
        .sort((one, other) => other.logProb - one.logProb),
    );
  }

  /**
   * Classifies the golden examples, all at once and one after the other, and compares with what they hold.
   *
   * `shareOfBound` is the largest share of the tolerance that a difference takes up: the replay holds up to 1,
   * as long as `problem`, a label that differs, is null.
   */
  async replay() {
    const result = { examples: this.golden.length, largestDifference: 0, shareOfBound: 0, problem: null };
    for (const size of [this.golden.length, 1]) {
      for (let start = 0; start < this.golden.length; start += size) {
        const examples = this.golden.slice(start, start + size);
        const found = await this.run(examples.map((example) => example.text));
        examples.forEach((example, row) => compare(example, found[row], result));
      }
    }
    result.holds = result.problem === null && result.shareOfBound <= 1;
    return result;
  }
}

function compare(example, found, result) {
  if (found.label !== example.label) {
    result.problem ??= `expected the label ${example.label}, found ${found.label}: ${JSON.stringify(example.text)}`;
  }
  if (found.logProbs.length !== example.log_probs.length) {
    result.problem ??= `expected ${example.log_probs.length} log-probabilities, found ${found.logProbs.length}`;
  }
  example.log_probs.forEach((expected, column) => {
    const difference = orInfinity(Math.abs(found.logProbs[column] - expected));
    result.largestDifference = Math.max(result.largestDifference, difference);
    result.shareOfBound = Math.max(result.shareOfBound, difference / (ATOL + RTOL * Math.abs(expected)));
  });
}

/** A difference that is not a number is the largest there is: Math.max and <= would let it pass. */
function orInfinity(difference) {
  return Number.isNaN(difference) ? Infinity : difference;
}

/** What a replay gave, in one line. */
export function inWords({ examples, largestDifference, shareOfBound, problem }) {
  const share = shareOfBound === 0 ? "0" : shareOfBound < 0.001 ? "less than 0.1" : (100 * shareOfBound).toFixed(1);
  return `replayed ${examples} golden examples: ` +
    (problem ?? `largest difference ${largestDifference.toExponential(1)}, ${share}% of what is allowed`);
}

function jsonLines(bytes) {
  return utf8.decode(bytes).split("\n").filter(Boolean).map((line) => JSON.parse(line));
}

async function sha256(bytes) {
  if (!globalThis.crypto?.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
