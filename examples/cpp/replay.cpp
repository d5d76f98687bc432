// replay BUNDLE [TEXT ...]: replays the golden examples of a bundle, and classifies texts.
//
// The exit code is 0 where every log-probability is within 1e-5 + 1e-5 * |reference|, 1 where one is not, and 2
// where the program was called in the wrong way or the model does not run.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>
#include <onnxruntime_cxx_api.h>

struct Scores {
  std::vector<float> log_probs;  // [N, K], one text's after the other
  std::vector<std::string> labels;  // [N], the most probable ones
};

class Classifier {
 public:
  explicit Classifier(const std::string& bundle)
      : session_(env_, (bundle + "/model.onnx").c_str(), Ort::SessionOptions{}) {}

  Scores run(const std::vector<std::string>& texts) {
    // A string tensor is made empty, and filled with C strings: what follows a NUL would be lost.
    std::vector<const char*> pointers;
    for (const std::string& text : texts) {
      if (text.find('\0') != std::string::npos) throw std::invalid_argument("a text holds NUL; leave it out");
      pointers.push_back(text.c_str());
    }
    Ort::AllocatorWithDefaultOptions allocator;
    const int64_t shape[] = {static_cast<int64_t>(texts.size())};
    Ort::Value input = Ort::Value::CreateTensor(allocator, shape, 1, ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING);
    input.FillStringTensor(pointers.data(), pointers.size());

    const char* inputs[] = {"text"};
    const char* outputs[] = {"log_probs", "label"};
    std::vector<Ort::Value> found = session_.Run(Ort::RunOptions{}, inputs, &input, 1, outputs, 2);

    Scores scores;
    const float* log_probs = found[0].GetTensorData<float>();
    scores.log_probs.assign(log_probs, log_probs + found[0].GetTensorTypeAndShapeInfo().GetElementCount());
    for (std::size_t row = 0; row < texts.size(); ++row) scores.labels.push_back(found[1].GetStringTensorElement(row));
    return scores;
  }

 private:
  Ort::Env env_{ORT_LOGGING_LEVEL_WARNING, "bowsprit"};
  Ort::Session session_;
};

std::vector<nlohmann::json> json_lines(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " cannot be read; is this the folder of a bundle?");
  std::vector<nlohmann::json> values;
  for (std::string line; std::getline(file, line);) values.push_back(nlohmann::json::parse(line));
  return values;
}

/// The largest share of the tolerance that a difference takes up; infinite where a label or the size differs.
double replay(Classifier& classifier, const std::vector<nlohmann::json>& examples) {
  std::vector<std::string> texts;
  for (const auto& example : examples) texts.push_back(example["text"]);
  const Scores found = classifier.run(texts);
  const std::size_t width = examples.at(0)["log_probs"].size();
  if (found.log_probs.size() != examples.size() * width) return std::numeric_limits<double>::infinity();
  double largest = 0;
  std::size_t at = 0;
  for (std::size_t row = 0; row < examples.size(); ++row) {
    if (found.labels[row] != examples[row]["label"]) return std::numeric_limits<double>::infinity();
    for (const double expected : examples[row]["log_probs"]) {
      const double share = std::abs(found.log_probs[at++] - expected) / (1e-5 + 1e-5 * std::abs(expected));
      // A NaN is the largest difference there is: std::max would let it pass.
      largest = std::isnan(share) ? std::numeric_limits<double>::infinity() : std::max(largest, share);
    }
  }
  return largest;
}

void classify(Classifier& classifier, const std::string& text, const std::vector<nlohmann::json>& labels) {
  const Scores found = classifier.run({text});
  std::printf("\"%s\": %s\n", text.c_str(), found.labels[0].c_str());
  for (std::size_t column = 0; column < labels.size(); ++column) {
    std::printf("  %.4f  %s\n", std::exp(found.log_probs[column]), labels[column].get<std::string>().c_str());
  }
}

int main(int argc, char** argv) try {
  if (argc < 2) throw std::invalid_argument("expected a bundle's folder: replay BUNDLE [TEXT ...]");
  const std::string bundle = argv[1];
  Classifier classifier(bundle);
  const auto examples = json_lines(bundle + "/golden.jsonl");
  const double share = replay(classifier, examples);
  std::printf("%s: %s, replayed %zu golden examples: %.1f%% of what is allowed\n", bundle.c_str(),
              share <= 1 ? "ok" : "DIFFERS", examples.size(), 100 * share);
  const auto labels = json_lines(bundle + "/labels.jsonl");
  for (int text = 2; text < argc; ++text) classify(classifier, argv[text], labels);
  return share <= 1 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
