"""Evaluation during training."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from yolact.data.coco import CocoDataset
from yolact.data.start import require_known_classes
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import beside_truth, segment_all
from yolact.evaluation.results import Results
from yolact.evaluation.scores import Scores, score
from yolact.models.detector import Detector
from yolact.training.logs import RunLog, write_curves
from yolact.training.processes import Processes, StopSignal
from yolact.training.settings import TrainingSettings
from yolact.training.state import Progress, RunState
from yolact.weights.checkpoints import save_weights

BEST_WEIGHTS = "best.safetensors"


class Validation:
    """Evaluates the network of a run at intervals, with all processes.

    Args:
        data: to evaluate with; its transform is not used. None: never evaluate.
        train_data: whose classes are the network's.
        settings, processes: those of the run.
        output: the run's folder, which receives the best weights and the curves.

    Raises:
        DataError: if the validation data have no objects, objects of other classes, or pictures of other sizes.
    """

    def __init__(
        self,
        data: CocoDataset | None,
        train_data: CocoDataset,
        settings: TrainingSettings,
        processes: Processes,
        output: Path,
    ):
        self.evaluation_set = None if data is None else EvaluationSet.of(data)
        self.class_names = tuple(train_data.class_names)
        self.processes, self.output, self.pictures = processes, output, settings.pictures
        self.interval = settings.evaluation_interval(len(train_data))
        self.total = settings.total_iterations(len(train_data))
        self.scores: Scores | None = None
        if data is not None and self.evaluation_set is not None:
            require_known_classes(self.class_names, data.annotations)
            for note in self.evaluation_set.notes:
                processes.say(note)

    def is_due(self, progress: Progress) -> bool:
        """Whether to evaluate now: at each interval, and at the end for the report."""
        if self.evaluation_set is None:
            return False
        if progress.iteration == self.total:
            return progress.evaluated_at < self.total or self.scores is None
        return progress.iteration % self.interval == 0 and progress.evaluated_at < progress.iteration

    def evaluate(self, state: RunState, log: RunLog, stop: StopSignal) -> bool:
        """Scores the weights, records that, keeps the best and writes a checkpoint; all unless a signal comes first.

        Returns:
            Whether a signal came.
        """
        assert self.evaluation_set is not None
        processes, progress = self.processes, state.progress
        processes.say(f"evaluating at iteration {progress.iteration}")
        detector = Detector(state.weights, self.class_names).to(processes.device).eval()
        part = self.evaluation_set.part(slice(processes.rank, None, processes.count))
        own = segment_all(detector, part, lambda: not stop.received)
        state.step.train()
        if processes.summed(torch.tensor(int(stop.received), device=processes.device)):
            processes.say("stopped by a signal; --resume begins with this evaluation")
            return True
        results = processes.gather_results(own, self.evaluation_set.image_ids)
        for reason in results.left_out.values():
            processes.say(f"left out: {reason}")
        self.scores = scores = processes.of_main(score(self.evaluation_set, results) if processes.main else None)
        progress.evaluated_at = progress.iteration
        if scores.mask.ap > progress.best_ap:
            progress.best_ap = scores.mask.ap
            if processes.main:
                save_weights(state.weights, self.output / BEST_WEIGHTS, self.class_names)
        processes.say(
            f"iteration {progress.iteration}: mask AP {scores.mask.ap:.1f}, AP50 {scores.mask.ap50:.1f}; "
            f"box AP {scores.box.ap:.1f}"
        )
        if processes.main:
            log.evaluation(progress.iteration, scores, self._pictures(results))
            write_curves(self.output)
        state.save()
        return False

    def _pictures(self, results: Results) -> Iterator[Tensor]:
        """The first images, with their detections beside the truth, one at a time."""
        assert self.evaluation_set is not None
        for image_id in self.evaluation_set.without(results.left_out).image_ids[: self.pictures]:
            yield beside_truth(self.evaluation_set, image_id, results.of_image(image_id))
