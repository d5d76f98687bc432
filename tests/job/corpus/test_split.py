import numpy as np
import pytest

from job.corpus.split import stratified_split

LABELS = np.repeat(np.arange(4, dtype=np.int32), [100, 50, 3, 1])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
def test_every_label_gives_its_share(share: float) -> None:
    """If it failed, rare labels would be missing from the training or the validation rows."""
    held_out = stratified_split(LABELS, share, seed=1)
    for label, size in enumerate([100, 50, 3, 1]):
        number = int((LABELS[held_out] == label).sum())
        assert abs(number - size * share) <= 0.5 or number == size - 1
        assert (LABELS[~held_out] == label).any()


def test_the_seed_decides_which_rows() -> None:
    """If it failed, a run could not be repeated, or every seed would hold out the same rows."""
    once, again, other = (stratified_split(LABELS, 0.3, seed=seed).tolist() for seed in (1, 1, 2))
    assert once == again
    assert once != other
