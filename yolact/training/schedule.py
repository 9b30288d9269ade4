"""The recipe of a training run, and the learning rate at each of its iterations."""

import math
from dataclasses import dataclass
from typing import Literal

PUBLISHED_BATCH_SIZE = 8
PUBLISHED_ITERATIONS = 800_000
PUBLISHED_MILESTONES = (280_000, 600_000, 700_000, 750_000)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train: the published recipe by default, scaled with the batch size.

    An iteration is one step of the optimizer on `batch_size` images, however they are spread over processes and
    accumulation.
    """

    batch_size: int = 8  # images of an iteration, of all processes and accumulated shares together
    iterations: int | None = None  # the published 800,000 · 8 / batch_size where neither this nor `epochs` is given
    epochs: float | None = None
    accumulation: int = 1  # shares in which each process computes its part of an iteration

    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 1e-3  # at a batch of 8; multiplied by batch_size / 8
    schedule: Literal["steps", "cosine"] = "steps"
    warmup_rate: float = 1e-4
    warmup_iterations: int = 500  # at most a tenth of all
    decay_factor: float = 0.1  # of the rate at each milestone
    momentum: float = 0.9
    weight_decay: float = 5e-4
    max_gradient_norm: float | None = None

    freeze_batch_norm: bool | None = None  # None: where a trained backbone sees fewer than 6 images a process and share
    precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = True
    compile: bool = False
    average_decay: float | None = None  # of an exponential moving average of the weights, which is then evaluated

    workers: int = 2  # loader processes of each process
    seed: int = 0
    log_every: int = 10  # iterations
    checkpoint_every: int = 1000  # iterations
    keep_checkpoints: int = 3
    evaluate_every: int | None = None  # iterations; None: each epoch, but at most 60 times in all
    pictures: int = 4  # of the validation images, drawn at each evaluation
    max_skipped_steps: int = 10  # in a row, before training stops
    max_broken: float = 0.01  # share of the training images that may be unreadable; a single one always may

    def __post_init__(self):
        for name in ("batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.iterations is not None and self.epochs is not None:
            raise ValueError("give iterations or epochs, not both")
        if any(length is not None and length <= 0 for length in (self.iterations, self.epochs)):
            raise ValueError("iterations and epochs must be positive")

    def total_iterations(self, images: int) -> int:
        """The length of the run for a data set of `images` images."""
        if self.epochs is not None:
            return math.ceil(self.epochs * images / self.batch_size)
        if self.iterations is not None:
            return self.iterations
        return math.ceil(PUBLISHED_ITERATIONS * PUBLISHED_BATCH_SIZE / self.batch_size)

    def evaluation_interval(self, images: int) -> int:
        """Iterations between two evaluations for a data set of `images` images."""
        if self.evaluate_every is not None:
            return self.evaluate_every
        epoch = math.ceil(images / self.batch_size)
        return max(epoch, math.ceil(self.total_iterations(images) / 60))

    def rate_at(self, iteration: int, total: int) -> float:
        """The learning rate of `iteration`, 0 … total − 1.

        Linear warm-up, then steps at the published parts of the run (or a cosine to zero).
        """
        peak = self.learning_rate * self.batch_size / PUBLISHED_BATCH_SIZE
        warmup = min(self.warmup_iterations, total // 10)
        if iteration < warmup:
            return self.warmup_rate + (peak - self.warmup_rate) * iteration / warmup
        if self.schedule == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))
        passed = sum(iteration >= milestone * total / PUBLISHED_ITERATIONS for milestone in PUBLISHED_MILESTONES)
        return peak * self.decay_factor**passed
