"""The feature specification that the settings ask for."""

from typing import TYPE_CHECKING

from serving.features.specification import FeatureSpec

if TYPE_CHECKING:
    from job.settings import Settings


def feature_spec(settings: "Settings") -> FeatureSpec:
    """The feature specification that the settings ask for."""
    shortest, _, longest = settings.char_ngrams.partition("-")
    return FeatureSpec(
        tokenizer=settings.tokenizer,
        lowercase=settings.lowercase,
        word_ngrams=int(settings.word_ngrams[-1]),
        char_ngrams=(int(shortest), int(longest)) if longest else None,
        weighting=settings.weighting,
        normalize=settings.normalize,
    )
