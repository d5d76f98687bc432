"""What a run says: events on standard error, and for people tables on standard output."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from job import labels, tutorial
from job.corpus.prepare import Prepared
from job.dataset import RejectedRows
from job.device import Device
from job.inputs import Inputs
from job.log import name_run, write
from job.quality import Judgement
from job.settings import Settings
from job.telling.outcome import Facts
from job.training import metrics
from job.training.metrics import Metrics
from job.training.train_state import EpochResult
from job.tutorial import Snapshot
from serving.bundle import Bundle
from serving.parity.rungs import Rung, by_name
from serving.parity.table import rungs_table

log = structlog.get_logger()

SHOWN_NAMES = 5
"""Names that an event lists, of labels for example; the number of all stands beside them."""


@dataclass(frozen=True)
class Output:
    """Says what the stages came to, and keeps what the run's result needs of it."""

    for_people: bool
    """Tables on standard output, instead of events with the same numbers."""
    facts: Facts = field(default_factory=Facts)

    def named(self, run_name: str) -> None:
        """What the run is called, as soon as that is known."""
        name_run(run_name)
        self.facts.run = run_name

    def device(self, device: Device, num_threads: int) -> None:
        """What training runs on; a warning where that is not what was asked for."""
        self.facts.device = str(device.torch_device)
        if device.reason is not None:
            log.warning("gpu_not_used", requested=device.requested, reason=device.reason)
        log.info("device", device=str(device.torch_device), name=device.description, num_threads=num_threads)

    def inputs(self, inputs: Inputs) -> None:
        """What was read, and what could not be used."""
        self.facts.rows = inputs.corpora["train"].num_rows
        for use, corpus in inputs.corpora.items():
            log.info(
                "data",
                use=use,
                rows=corpus.num_rows,
                rejected=inputs.records[use].rejected,
                **({"from_cache": True} if use in inputs.cached else {}),
            )

    def learning_plan(self, settings: Settings, num_rows: int) -> None:
        """What was chosen where the settings left it open, with the rest of the plan."""
        log.info(
            "learning_plan",
            rows=num_rows,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            optimizer=settings.optimizer,
        )

    def rejected(self, rejected: RejectedRows, path: Path | str) -> None:
        """Where the rejected rows are listed, and how many of them."""
        num_listed = len(rejected.details)
        log.warning("rows_rejected", rows=len(rejected), listed=num_listed, listed_in=str(path))

    def labels(self, inputs: Inputs) -> None:
        """Reasons to look at the labels: rows of unseen ones count as wrong; alike, one may be meant."""
        for use, names in labels.unseen(inputs).items():
            shown = names[:SHOWN_NAMES]
            log.warning("labels_not_in_training_data", use=use, num_labels=len(names), labels=shown)
        if groups := labels.alike(inputs.label_names):
            log.warning(
                "labels_alike",
                groups=[group[:SHOWN_NAMES] for group in groups[:SHOWN_NAMES]],
                number=len(groups),
                advice="each is a label of its own; where one is meant, correct the data",
            )

    def prepared(self, prepared: Prepared, label_names: list[str]) -> None:
        """How large the model will be."""
        train = prepared.corpora["train"]
        log.info(
            "model",
            words=len(prepared.vocabulary),
            labels=len(label_names),
            training_rows=train.num_rows,
            training_tokens=prepared.num_tokens,
        )
        if len(prepared.corpora) == 1:
            log.info("no_test_data", advice="set BOW_TEST_DATA to learn how good the model is")

    def provider_unusable(self, name: str, reason: str) -> None:
        """That `bow.onnx` is not checked on the GPU."""
        log.warning("parity_not_checked_on_gpu", provider=name, reason=reason)

    def tutorial(self, before: Snapshot, after: Snapshot) -> None:
        """The tutorial's own figures."""
        if self.for_people:
            self._print(tutorial.describe(before, after))
        else:
            for when, shot in (("before", before), ("after", after)):
                log.info("tutorial", when=when, log_probs=shot.log_probs.tolist(), creo=shot.word.tolist())

    def best_epoch(self, epochs: list[EpochResult], best: int | None) -> None:
        """Which epoch's weights the model has, where that need not be the last one's."""
        if best is not None:
            accuracy = epochs[best - 1].validation_accuracy
            assert accuracy is not None
            log.info("best_epoch", epoch=best, epochs_run=len(epochs), validation_accuracy=round(accuracy, 4))

    def trained(self, tokens_per_second: float) -> None:
        """How fast the training loop was; each epoch has said so already."""
        self.facts.tokens_per_second = tokens_per_second

    def metrics(self, scored: dict[str, Metrics]) -> None:
        """How good the model is."""
        if "test" in scored:
            self.facts.accuracy = scored["test"].summary.accuracy
        for use, each in scored.items():
            if self.for_people:
                self._print(metrics.table(use, each))
            else:
                summary = each.summary
                log.info(
                    "metrics",
                    use=use,
                    rows=summary.rows,
                    accuracy=round(summary.accuracy, 4),
                    macro_f1=round(summary.macro_f1, 4),
                    weighted_f1=round(summary.weighted_f1, 4),
                    log_loss=summary.log_loss,
                )

    def parity(self, rungs: list[Rung]) -> None:
        """How far each runtime is from the trained model."""
        if self.for_people:
            self._print(rungs_table(rungs))
            return
        for rung in by_name(rungs):
            log.info(
                "parity",
                runtime=rung.name,
                compared=f"{rung.count} {rung.sample}",
                largest_difference=rung.largest_difference,
                holds=rung.holds,
            )

    def judged(self, judgement: Judgement) -> None:
        """What the quality gate compared, where it has limits, and whether the model passed."""
        if not judgement.has_limits:
            return
        baseline = {}
        if judgement.baseline is not None:
            baseline = {
                "in_service": judgement.baseline.run,
                "its_accuracy": round(judgement.baseline.accuracy, 4),
                "scored_anew": judgement.baseline.scored_anew,
            }
        accuracy = None if judgement.summary is None else round(judgement.summary.accuracy, 4)
        log.info("quality_gate", accuracy=accuracy, **baseline, passed=judgement.failed is None)

    def settled(self, outcome: str, bundle: Bundle) -> None:
        """What the run came to, as soon as the bundle has its name; however it ends, it is told with that."""
        self.facts.outcome, self.facts.bundle_id = outcome, bundle.bundle_id
        if "test" in bundle.manifest.metrics:
            self.facts.accuracy = bundle.manifest.metrics["test"].accuracy

    def published(self, where: Path | str) -> None:
        """Where the bundle is: its folder, or its URL."""
        if self.for_people:
            self._print(f"bundle  {where}\nid      {self.facts.bundle_id}\n")
        else:
            log.info("published", bundle=str(where), bundle_id=self.facts.bundle_id)

    def already_published(self, where: Path | str, *, latest: str | None) -> None:
        """That there was nothing to do, and the run whose bundle `latest` names, which may be another."""
        advice = "set BOW_OVERWRITE=true to train again"
        if self.for_people:
            named = latest or "nothing"
            self._print(f"{where} is this run's bundle already, and latest names {named}; {advice}\n")
        else:
            log.info("already_published", bundle=str(where), latest=latest, advice=advice)

    def kept_back(self, where: Path | str) -> None:
        """Where the bundle is that did not pass; the run's error says why."""
        log.warning("kept_back", bundle=str(where), bundle_id=self.facts.bundle_id)

    def removed(self, names: list[str], keep: int | None) -> None:
        """Which older bundles made way."""
        if names:
            log.info("old_bundles_removed", bundles=names, keep=keep)

    def not_removed(self, reason: str) -> None:
        """Why older bundles are still there."""
        advice = "the new bundle is published; the next run tries again, once the reason is gone"
        log.warning("old_bundles_not_removed", reason=reason, advice=advice)

    def _print(self, text: str) -> None:
        write(sys.stdout, "\n" + text)
