"""The training loop, for one process or many."""

import json
import math
import os
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from rich.console import Console
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from yolact.config import Preset
from yolact.data.batch import Batch, Tolerant, collate
from yolact.data.coco import CocoDataset
from yolact.data.targets import Targets
from yolact.evaluation.dataset import EvaluationSet
from yolact.evaluation.evaluate import beside_truth, detections_of, segment_all
from yolact.evaluation.results import Results
from yolact.evaluation.scores import Scores, score
from yolact.files import written_whole
from yolact.models.detector import Detector
from yolact.models.yolact import Yolact
from yolact.ops import cuda_ops_available
from yolact.progress import progress_bar
from yolact.training.checkpoints import CheckpointFolder
from yolact.training.initial import IMAGENET, SCRATCH, initialise
from yolact.training.logs import RunLog, short, write_curves, write_report
from yolact.training.losses import Counts, Losses, count, normalised
from yolact.training.matching import Matches
from yolact.training.sampling import ShareSampler
from yolact.training.schedule import TrainingConfig
from yolact.training.step import TrainingStep
from yolact.weights.checkpoints import save_weights

SMALLEST_BATCH_FOR_NORM = 6  # images that the original wants for batch norms to learn from
_SECONDS_BETWEEN_LINES = 30  # where there is no terminal for a progress bar
_IMAGES_GATHERED = 100  # results of that many go from each process to the main one at a time
_QUALITY_WEIGHTS = "best.safetensors"
_FINAL_WEIGHTS = "weights.safetensors"


class TrainingError(RuntimeError):
    """Training that cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    iteration: steps done.
    finished: False where a signal ended it; it can be resumed.
    best_ap: the best mask AP met, 0–100; None without validation.
    weights: the final weights of a finished run.
    """

    iteration: int
    finished: bool
    best_ap: float | None
    weights: Path | None


@dataclass
class _Progress:
    """What of a run changes beside tensors; part of each checkpoint."""

    iteration: int = 0
    evaluated_at: int = 0
    best_ap: float = -1.0
    skipped_in_a_row: int = 0
    window: tuple[float, ...] = (0.0,) * len(Losses._fields)  # sums of the losses since they were last recorded
    window_steps: int = 0
    broken: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Share:
    """What one forward pass learns from."""

    images: Tensor
    targets: Targets
    matches: Matches
    counts: Counts
    paths: list[str]


class Trainer:
    """One training run: a network, its data and its folder.

    The folder receives checkpoints/, best.safetensors, weights.safetensors, metrics.jsonl, tensorboard/, config.json,
    curves.png, report.md and report.json.

    Args:
        preset: of the network; its class count follows the data.
        train_data: with a transform that ends at the preset's image size.
        output: the run's folder.
        config: how to train.
        val_data: evaluated during and after training where given; its transform plays no part.
        weights: what to start from, see `yolact.training.initial.initialise`.
        resume: go on from the newest checkpoint in `output`, if there is one.
        cpu: train on the CPU even where there is a GPU.
        console: for messages and the progress bar; standard error by default.

    Raises:
        ValueError: if the folder holds another run, the batch cannot be divided or the data do not fit.
        CheckpointError, DownloadError: if the weights cannot be had.
    """

    def __init__(
        self,
        preset: Preset,
        train_data: CocoDataset,
        output: str | os.PathLike[str],
        config: TrainingConfig | None = None,
        val_data: CocoDataset | None = None,
        weights: str | os.PathLike[str] = IMAGENET,
        resume: bool = False,
        cpu: bool = False,
        console: Console | None = None,
    ):
        self.preset, self.train_data, self.output = preset, train_data, Path(output)
        self.config = config = TrainingConfig() if config is None else config
        self.console = Console(stderr=True, highlight=False, soft_wrap=True) if console is None else console
        # Its settings outlive it, so that a second run in one process could have no other precision.
        AcceleratorState._reset_state()
        self.accelerator = Accelerator(mixed_precision=config.precision, cpu=cpu)
        self.device = self.accelerator.device
        if self.device.type == "cuda" and not cuda_ops_available():
            raise ValueError(
                "the operators were built without CUDA: build them again with a CUDA toolkit, or use the CPU"
            )
        self.main = self.accelerator.is_main_process
        self.class_names = tuple(train_data.class_names)
        self.validation = None if val_data is None else EvaluationSet.of(val_data)
        if self.validation is not None and self.validation.class_names != self.class_names:
            raise ValueError(
                f"training and validation name other classes: {', '.join(self.class_names)} and "
                f"{', '.join(self.validation.class_names)}"
            )
        self.total = config.total_iterations(len(train_data))
        self.evaluation_interval = config.evaluation_interval(len(train_data))
        processes = self.accelerator.num_processes
        self.sampling: dict[str, int] = {
            "images": len(train_data),
            "batch_size": config.batch_size,
            "seed": config.seed,
            "processes": processes,
            "rank": self.accelerator.process_index,
            "accumulation": config.accumulation,
        }
        share_size = ShareSampler(first=0, last=0, **self.sampling).share_size

        self.checkpoints = CheckpointFolder(self.output / "checkpoints", config.keep_checkpoints)
        if self.checkpoints.saved() and not resume:
            raise ValueError(f"{self.output} holds a run already: go on with it (--resume) or give another folder")
        saved = self.checkpoints.load() if resume else None
        torch.manual_seed(config.seed + self.accelerator.process_index)
        network = Yolact(preset, len(self.class_names))
        self.freeze = config.freeze_batch_norm
        if saved is not None:
            self._check_same_run(saved)
            network.load_state_dict(saved["network"])
            self.freeze = saved["freeze"]
            self._say(f"resumed at iteration {saved['iteration']} of {self.total}")
        else:
            with self.accelerator.main_process_first():
                self._say(initialise(network, weights))
            if self.freeze is None:
                self.freeze = os.fspath(weights) != SCRATCH and share_size < SMALLEST_BATCH_FOR_NORM
                if self.freeze:
                    self._say(
                        f"batch norms stay as they are: {share_size} images at a time are fewer than "
                        f"{SMALLEST_BATCH_FOR_NORM}"
                    )
        self.step = TrainingStep(network, bool(self.freeze), config.channels_last, config.compile).to(self.device)
        self.model, self.optimizer = self.accelerator.prepare(self.step, self._make_optimizer())
        self.average: Yolact | None = None
        if config.average_decay is not None:
            self.average = Yolact(preset, len(self.class_names)).to(self.device).requires_grad_(False)
            self.average.load_state_dict(network.state_dict())
        self.progress = _Progress()
        if saved is not None:
            self._restore(saved)
        self.log: RunLog | None = None
        self._stop_signal: int | None = None

    @property
    def network(self) -> Yolact:
        """The network in training."""
        return self.step.network

    def run(self) -> TrainingResult:
        """Trains to the end, or to a SIGINT or SIGTERM, at which a checkpoint is written.

        Raises:
            TrainingError: if the loss stays infinite, or too many images cannot be read.
        """
        if self.main:
            self.log = RunLog(self.output, self.progress.iteration)
            description = {"preset": self.preset.name, "classes": list(self.class_names), "total": self.total}
            with written_whole(self.output / "config.json") as temporary:
                temporary.write_text(json.dumps({**description, **asdict(self.config)}, indent=1))
        try:
            with self._stopping_at_signals():
                finished, scores = self._loop()
                if finished:
                    self._finish(scores)
        finally:
            if self.log is not None:
                self.log.close()
        best = self.progress.best_ap if self.progress.best_ap >= 0 else None
        return TrainingResult(
            self.progress.iteration, finished, best, self.output / _FINAL_WEIGHTS if finished else None
        )

    # The loop

    def _loop(self) -> tuple[bool, Scores | None]:
        """Whether the end was reached, and the last scores."""
        config, progress = self.config, self.progress
        scores: Scores | None = None
        saved_at = progress.iteration
        shown = progress_bar(self.console)
        shown.disable = shown.disable or not self.main
        since, since_iteration, spoke = time.perf_counter(), progress.iteration, time.perf_counter()
        # Closing ends the loader's processes now and not when the program exits.
        with shown, closing(self._batches()) as batches:
            task = shown.add_task("Training", total=self.total, completed=progress.iteration)
            while True:
                if self._evaluation_is_due():
                    if saved_at < progress.iteration:
                        self._save()
                    scores = self._evaluate()
                    if scores is None:
                        return False, None
                    self._save()
                    saved_at = progress.iteration
                    since, since_iteration = time.perf_counter(), progress.iteration
                if progress.iteration == self.total:
                    break
                stop = self._take_step(list(islice(batches, config.accumulation)))
                iteration = progress.iteration
                if iteration % config.log_every == 0 or iteration == self.total:
                    now = time.perf_counter()
                    rate = (iteration - since_iteration) * config.batch_size / (now - since)
                    since, since_iteration = now, iteration
                    means = self._record(rate)
                    if means:
                        shown.update(task, description=short(means))
                        if self.main and not self.console.is_terminal and now - spoke > _SECONDS_BETWEEN_LINES:
                            spoke = now
                            left = (self.total - iteration) * config.batch_size / max(rate, 1e-9) / 60
                            self._say(
                                f"{iteration}/{self.total} {short(means)}, {rate:.1f} images/s, {left:.0f} min left"
                            )
                shown.update(task, completed=iteration)
                if stop or iteration % config.checkpoint_every == 0:
                    self._save()
                    saved_at = iteration
                if stop:
                    self._say(f"stopped by a signal at iteration {iteration}; --resume goes on from here")
                    return False, scores
        if saved_at < progress.iteration:
            self._save()
        return True, scores

    def _take_step(self, batches: list[Batch]) -> bool:
        """One step of the optimizer, unless the losses are not finite; whether any process was told to stop."""
        progress, config = self.progress, self.config
        shares = [self._share(batch) for batch in batches]
        broken = [message for batch in batches for message in batch.broken]
        sent = [sum(column) for column in zip(*(share.counts for share in shares), strict=True)]
        sent += [torch.tensor(value, device=self.device) for value in (self._stop_signal is not None, len(broken))]
        positives, empty, images, stop, unreadable = self._summed(torch.stack(sent).long())
        counts = Counts(positives, empty, images)

        norms = [] if self.freeze else [buffer for norm in self.step.batch_norms() for buffer in norm.buffers()]
        before = [buffer.clone() for buffer in norms]
        parts = torch.zeros(len(Losses._fields), device=self.device)
        suspects: list[str] = []
        for number, share in enumerate(shares):
            last = number == len(shares) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                sums = Losses(*self.model(share.images, share.targets, share.matches))
                losses = normalised(sums, counts, self.preset.loss)
                # A share without images takes part so that no process waits for another, and counts for nothing.
                weight = 1.0 if share.paths else 0.0
                # The processes' gradients are averaged, and these losses are to be added.
                self.accelerator.backward(losses.total() * (weight * self.accelerator.num_processes))
            here = torch.stack(losses).detach() * weight
            if not here.isfinite().all():
                suspects += share.paths
            parts += here
        parts = self._summed(parts)

        rate = config.rate_at(progress.iteration, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.accelerator.unscale_gradients(self.optimizer)
        gradients = [parameter.grad for parameter in self.step.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        values = parts.tolist()
        wrong = [name for name, value in zip(Losses._fields, values, strict=True) if not math.isfinite(value)]
        if not wrong and self.accelerator.scaler is None and not norm.isfinite():
            wrong = ["gradient"]
            suspects = [path for share in shares for path in share.paths]
        progress.iteration += 1
        if wrong:
            for buffer, value in zip(norms, before, strict=True):
                buffer.copy_(value)
            self.optimizer.zero_grad()
            self._skip(wrong, gather_object(suspects))
        else:
            progress.skipped_in_a_row = 0
            if config.max_gradient_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.step.parameters(), config.max_gradient_norm, norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self._update_average()
            progress.window = tuple(a + b for a, b in zip(progress.window, values, strict=True))
            progress.window_steps += 1
        if unreadable:
            self._report_broken(gather_object(broken))
        return bool(stop)

    def _share(self, batch: Batch) -> _Share:
        size = self.preset.image_size
        if not batch.paths:
            device, nothing = self.device, torch.tensor(0, device=self.device)
            targets = Targets(
                torch.zeros(1, 0, 4, device=device),
                torch.zeros(1, 0, dtype=torch.long, device=device),
                torch.zeros(0, size, size, dtype=torch.bool, device=device),
            )
            images = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=device)
            return _Share(images, targets, self.step.match(targets), Counts(nothing, nothing, nothing), [])
        if batch.images.shape[-1] != size:
            raise ValueError(
                f"the images are {batch.images.shape[-1]} pixels wide, but {self.preset.name} takes {size}: end the "
                f"data set's transform at that size"
            )
        images = batch.images.to(self.device, non_blocking=True)
        targets = Targets(*(column.to(self.device, non_blocking=True) for column in batch.targets))
        matches = self.step.match(targets)
        return _Share(images, targets, matches, count(matches), batch.paths)

    def _skip(self, wrong: list[str], images: list[str]) -> None:
        progress = self.progress
        progress.skipped_in_a_row += 1
        named = ", ".join(images[:16]) or "no single image"
        self._say(
            f"iteration {progress.iteration}: {' and '.join(wrong)} not finite, the step is skipped; images: {named}"
        )
        if self.log is not None:
            self.log.skipped(progress.iteration, wrong, images)
        if progress.skipped_in_a_row >= self.config.max_skipped_steps:
            raise TrainingError(
                f"{progress.skipped_in_a_row} steps in a row were not finite ({', '.join(wrong)}): lower the learning "
                f"rate or set max_gradient_norm, train in bf16 or float32 where it is fp16, and check the data "
                f"(yolact data check); the last checkpoint is in {self.checkpoints.path}"
            )

    def _report_broken(self, messages: list[str]) -> None:
        new = sorted(set(messages) - set(self.progress.broken))
        self.progress.broken += tuple(new)
        for message in new:
            self._say(f"left out: {message}")
        share = len(self.progress.broken) / len(self.train_data)
        if len(self.progress.broken) > 1 and share > self.config.max_broken:
            raise TrainingError(
                f"{len(self.progress.broken)} of {len(self.train_data)} training images cannot be read, more than "
                f"{self.config.max_broken:.0%}: repair the data set (yolact data check lists what is wrong)"
            )

    def _update_average(self) -> None:
        if self.average is None:
            return
        steps = self.progress.iteration
        # Early weights are soon forgotten.
        decay = min(self.config.average_decay or 0.0, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(list(self.average.parameters()), list(self.network.parameters()), steps)
        for mean, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(buffer)

    def _record(self, images_per_second: float) -> dict[str, float]:
        """Writes the mean losses since the last record and returns them; none where no step was taken."""
        progress = self.progress
        if progress.window_steps == 0:
            return {}
        means = {
            name: value / progress.window_steps for name, value in zip(Losses._fields, progress.window, strict=True)
        }
        if not self.preset.rescores_masks:
            del means["mask_iou"]
        progress.window, progress.window_steps = (0.0,) * len(Losses._fields), 0
        if self.log is not None:
            values = {
                "learning_rate": self.config.rate_at(progress.iteration - 1, self.total),
                "epoch": progress.iteration * self.config.batch_size / len(self.train_data),
                "images_per_second": images_per_second,
            }
            self.log.losses(progress.iteration, means, values)
        return means

    # Evaluation

    def _evaluation_is_due(self) -> bool:
        iteration = self.progress.iteration
        if self.validation is None or iteration == self.progress.evaluated_at:
            return False
        return iteration == self.total or iteration % self.evaluation_interval == 0

    def _evaluate(self) -> Scores | None:
        """Scores of the validation set, recorded; None where a signal came."""
        assert self.validation is not None
        self._say(f"evaluating at iteration {self.progress.iteration}")
        detector = Detector(self._weights_to_keep(), self.class_names).to(self.device).eval()
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        part = self.validation.part(slice(rank, None, processes))
        entries = segment_all(detector, part, lambda: self._stop_signal is None)
        self.step.train()
        stopped = self._summed(torch.tensor(int(self._stop_signal is not None), device=self.device))
        if stopped:
            self._say("stopped by a signal; --resume begins with this evaluation")
            return None
        entries = gather_results(entries, self.validation.image_ids, self.accelerator)
        scores = score(self.validation, entries) if self.main else None
        # Every process must know what the main one found.
        scores = _broadcast(scores, self.accelerator)
        self.progress.evaluated_at = self.progress.iteration
        if scores.mask.ap > self.progress.best_ap:
            self.progress.best_ap = scores.mask.ap
            if self.main:
                save_weights(self._weights_to_keep(), self.output / _QUALITY_WEIGHTS, self.class_names)
        self._say(
            f"iteration {self.progress.iteration}: mask AP {scores.mask.ap:.1f}, AP50 {scores.mask.ap50:.1f}; "
            f"box AP {scores.box.ap:.1f}"
        )
        if self.log is not None:
            self.log.evaluation(self.progress.iteration, scores, self._pictures(entries))
            write_curves(self.output)
        return scores

    def _pictures(self, entries: Results) -> list[Tensor]:
        assert self.validation is not None
        pictures = []
        for image_id in self.validation.image_ids[: self.config.pictures]:
            found = detections_of(entries.of_image(image_id), self.validation.category_ids)
            pictures.append(beside_truth(self.validation, image_id, found))
        return pictures

    def _weights_to_keep(self) -> Yolact:
        return self.network if self.average is None else self.average

    def _finish(self, scores: Scores | None) -> None:
        if self.validation is not None and scores is None:  # resumed when all was done
            scores = self._evaluate()
        if not self.main:
            return
        save_weights(self._weights_to_keep(), self.output / _FINAL_WEIGHTS, self.class_names)
        write_curves(self.output)
        if scores is not None:
            title = (
                f"{self.preset.name}, {self.progress.iteration} iterations, best mask AP {self.progress.best_ap:.1f}"
            )
            write_report(self.output, title, scores)
        self._say(f"done: {self.output / _FINAL_WEIGHTS}")

    # Checkpoints

    def _save(self) -> None:
        """Writes a checkpoint; all processes take part."""
        random: dict[str, Tensor] = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        randoms = gather_object([random])
        if not self.main:
            return
        scaler = self.accelerator.scaler
        self.checkpoints.save(
            self.progress.iteration,
            {
                "run": self._run_identity(),
                "network": self.network.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "random": randoms,
                "progress": asdict(self.progress),
                "freeze": bool(self.freeze),
            },
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None and saved["average"] is not None:
            self.average.load_state_dict(saved["average"])
        if self.accelerator.scaler is not None and saved["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.progress = _Progress(**saved["progress"])
        if len(self.progress.window) < len(Losses._fields):  # of a run that began before masks were re-scored
            self.progress.window = (*self.progress.window, 0.0)
        if len(saved["random"]) == self.accelerator.num_processes:
            random = saved["random"][self.accelerator.process_index]
            torch.set_rng_state(random["cpu"])
            if self.device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.device)

    def _run_identity(self) -> dict[str, Any]:
        return {
            "preset": self.preset.name,
            "class_names": list(self.class_names),
            "images": len(self.train_data),
            "batch_size": self.config.batch_size,
            "optimizer": self.config.optimizer,
            "seed": self.config.seed,
        }

    def _check_same_run(self, saved: dict[str, Any]) -> None:
        own = self._run_identity()
        different = [
            f"{key} {saved['run'].get(key)} (now {own[key]})" for key in own if saved["run"].get(key) != own[key]
        ]
        if different:
            raise ValueError(
                f"{self.output} holds another run, with {'; '.join(different)}: resume with the same settings"
            )

    # Small parts

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        parameters = [parameter for parameter in self.step.parameters() if parameter.requires_grad]
        if config.optimizer == "adamw":
            return torch.optim.AdamW(parameters, config.learning_rate, weight_decay=config.weight_decay)
        return torch.optim.SGD(parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay)

    def _batches(self) -> Generator[Batch, None, None]:
        """The shares of this process from here to the end of the run."""
        workers = self.config.workers
        yield from DataLoader(
            Tolerant(self.train_data),
            batch_sampler=ShareSampler(first=self.progress.iteration, last=self.total, **self.sampling),
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_leave_interrupts_to_the_main_process,
            # Of its own, or starting the loader would change what the steps draw.
            generator=torch.Generator().manual_seed(self.config.seed),
        )

    def _summed(self, values: Tensor) -> Tensor:
        """`values` added up over all processes."""
        return self.accelerator.reduce(values, "sum")

    def _say(self, text: str) -> None:
        if self.main:
            self.console.print(text, markup=False)

    @contextmanager
    def _stopping_at_signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM asks for an end after the step, a second SIGINT interrupts at once."""

        def remember(number: int, frame: object) -> None:
            self._stop_signal = number
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def gather_results(own: Results, image_ids: Sequence[int], accelerator: Accelerator) -> Results:
    """The results of all processes, in the main one; the others get none.

    Args:
        own: of every num_processes-th image, from process_index on.
        image_ids: of all images.
    """
    if accelerator.num_processes == 1:
        return own
    everything = Results()
    together = accelerator.num_processes * _IMAGES_GATHERED
    for begin in range(0, len(image_ids), together):
        ids = image_ids[begin : begin + together][accelerator.process_index :: accelerator.num_processes]
        for found in gather_object([own.of_image(image_id) for image_id in ids]):
            if accelerator.is_main_process:
                everything.add(found)
    return everything


def _broadcast(value: Any, accelerator: Accelerator) -> Any:
    """The main process's `value`, in every process."""
    return next(found for found in gather_object([value]) if found is not None)


def _leave_interrupts_to_the_main_process(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # job systems send it to every process, but the step must end first
