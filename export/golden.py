"""The golden examples: texts made from the vocabulary, and what the trained model says of them in float64."""

from collections.abc import Sequence

import numpy as np

from serving.features.specification import WHITESPACE, features, tokens_of
from serving.parity.golden import GoldenExample
from serving.parity.reference import Reference
from serving.weights import Parameters

NUM_EXAMPLES = 64
MAX_LOG_PROBS = 1 << 20
"""In all examples together; models of very many labels have fewer examples."""
MAX_WORDS = 40
SEED = 0


def golden_examples(parameters: Parameters) -> list[GoldenExample]:
    """The examples: the same for the same model, and nothing of the training data beyond its words."""
    labels, vocabulary = parameters.labels, parameters.vocabulary
    number = max(1, min(NUM_EXAMPLES, MAX_LOG_PROBS // len(labels)))
    texts = golden_texts(tokens_of(vocabulary), number)
    used = {name for text in texts for name in features(text, parameters.spec)}
    reference = Reference(
        weight=parameters.weight,
        bias=parameters.bias,
        index={name: place for place, name in enumerate(vocabulary) if name in used},
        spec=parameters.spec,
        idf=parameters.idf,
    )
    log_probs = reference.score(texts).log_probs
    return [
        GoldenExample(text=text, label=labels[row.argmax()], log_probs=row.tolist())
        for text, row in zip(texts, log_probs, strict=True)
    ]


def golden_texts(vocabulary: Sequence[str], number: int) -> list[str]:
    """Texts of 1 to 40 words, most of them frequent ones, with an unknown word here and there."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    texts = []
    for _ in range(number):
        num_words = int(generator.integers(1, MAX_WORDS + 1))
        # The vocabulary stands in order of frequency: the square draws its front more often.
        places = (generator.random(num_words) ** 2 * len(vocabulary)).astype(np.int64)
        words = [vocabulary[place] for place in places] if vocabulary else []
        if generator.random() < 0.25:
            words.insert(int(generator.integers(len(words) + 1)), "\ue000unknown\ue000")
        spaces = generator.choice(WHITESPACE, size=len(words)) if generator.random() < 0.25 else [0x20] * 99
        texts.append("".join(word + chr(space) for word, space in zip(words, spaces, strict=False)))
    return texts
