"""What is learned: labelled texts, in the format of each contender."""

from dataclasses import dataclass
from pathlib import Path

PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A folder with `train` and `test` as .tsv (label, text), .ft (fastText's) and .vw (Vowpal Wabbit's).

    Labels are numbers from 0 and tokens are separated by one space, so that no contender's own idea of
    either makes a difference.
    """

    folder: Path

    def path(self, part: str, suffix: str) -> Path:
        """The file of a part in one of the formats."""
        return self.folder / f"{part}.{suffix}"

    def rows(self, part: str) -> tuple[list[str], list[int]]:
        """The texts and labels of a part."""
        texts, labels = [], []
        with self.path(part, "tsv").open(encoding="utf-8", newline="\n") as lines:
            next(lines)
            for line in lines:
                label, text = line.rstrip("\n").split("\t")
                texts.append(text)
                labels.append(int(label))
        return texts, labels

    @property
    def name(self) -> str:
        """What the task is called."""
        return self.folder.name

    @property
    def num_labels(self) -> int:
        """Labels, those of the test data among them."""
        return 1 + max(label for part in PARTS for label in self.rows(part)[1])
