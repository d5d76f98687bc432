"""What a run says: events on standard error, and for people tables on standard output."""

import sys
from dataclasses import dataclass
from pathlib import Path

import structlog

from job import metrics, tutorial
from job.device import Device
from job.inputs import Inputs
from job.log import write
from job.metrics import Metrics
from job.prepare import Prepared
from job.settings import Settings
from job.tutorial import Snapshot
from serving.parity import Rung, by_name
from serving.table import rungs_table

log = structlog.get_logger()

SHOWN_NAMES = 5
"""Names that an event lists, of labels for example; the number of all stands beside them."""


@dataclass(frozen=True)
class Output:
    """Says what the stages came to."""

    for_people: bool
    """Tables on standard output, instead of events with the same numbers."""

    def device(self, device: Device, num_threads: int) -> None:
        """What training runs on; a warning where that is not what was asked for."""
        if device.reason is not None:
            log.warning("gpu_not_used", requested=device.requested, reason=device.reason)
        log.info("device", device=str(device.torch_device), name=device.description, num_threads=num_threads)

    def inputs(self, inputs: Inputs) -> None:
        """What was read, and what could not be used."""
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

    def rejected(self, number: int, path: Path | str) -> None:
        """Where the rejected rows are listed."""
        log.warning("rows_rejected", rows=number, listed_in=str(path))

    def unseen_labels(self, use: str, names: list[str]) -> None:
        """Labels that the training data lacks: rows that have them count as wrong."""
        log.warning("labels_not_in_training_data", use=use, num_labels=len(names), labels=names[:SHOWN_NAMES])

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

    def metrics(self, scored: dict[str, Metrics]) -> None:
        """How good the model is."""
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

    def published(self, bundle: Path | str, bundle_id: str) -> None:
        """Where the bundle is."""
        if self.for_people:
            self._print(f"bundle  {bundle}\nid      {bundle_id}\n")
        else:
            log.info("published", bundle=str(bundle), bundle_id=bundle_id)

    def already_published(self, bundle: Path | str) -> None:
        """That there was nothing to do."""
        advice = "set BOW_OVERWRITE=true to train again"
        if self.for_people:
            self._print(f"{bundle} is this run's bundle already; {advice}\n")
        else:
            log.info("already_published", bundle=str(bundle), advice=advice)

    def _print(self, text: str) -> None:
        write(sys.stdout, "\n" + text)
