"""The settings of a training run, and the learning rate at each of its iterations."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from yolact.data.transforms import Augmentation
from yolact.models.inference import Precision

PUBLISHED_BATCH_SIZE = 8
PUBLISHED_ITERATIONS = 800_000
PUBLISHED_MILESTONES = (280_000, 600_000, 700_000, 750_000)
EVALUATIONS = 60  # at most so many in a run, unless `evaluate_every` says otherwise

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["steps", "cosine"]

# These may change when a run is resumed. They say how a step is computed, when something is recorded and when the run
# gives up, but not what it learns.
FREE_ON_RESUME = frozenset(
    {
        "accumulation",
        "channels_last",
        "compile",
        "workers",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "evaluate_every",
        "pictures",
        "max_skipped_steps",
        "max_broken",
    }
)


@dataclass(frozen=True)
class TrainingSettings:
    """How to train. The defaults are the published recipe, scaled with the batch size.

    An iteration is one step of the optimizer on `batch_size` images. All processes together compute it, each in
    `accumulation` shares.

    Raises:
        ValueError: if a value is out of its range. The message names the field, the range and the value.
    """

    batch_size: int = 8  # images of an iteration, over all processes and shares
    iterations: int | None = None  # without this and `epochs`, the published 800,000 · 8 / batch_size
    epochs: float | None = None
    accumulation: int = 1  # shares of an iteration that each process computes one after the other

    optimizer: Optimizer = "sgd"
    learning_rate: float = 1e-3  # for a batch of 8 images; it is multiplied by batch_size / 8
    schedule: Schedule = "steps"
    warmup_rate: float = 1e-4
    warmup_iterations: int = 500  # at most a tenth of the run
    decay_factor: float = 0.1  # multiplies the rate at each milestone of the schedule "steps"
    momentum: float = 0.9  # of SGD
    weight_decay: float = 5e-4
    max_gradient_norm: float | None = None  # longer gradients are scaled down to this
    average_decay: float | None = None  # of a moving average of the weights, which is evaluated and kept in their place

    freeze_batch_norm: bool | None = None  # None: freeze if the weights are trained and a share has fewer than 6 images
    precision: Precision = "fp32"  # below fp32, torch's autocast decides what is computed in it
    channels_last: bool = True
    compile: bool = False
    augmentation: Augmentation = field(default_factory=Augmentation)

    workers: int = 2  # loader processes of each process
    seed: int = 0
    log_every: int = 10  # iterations
    checkpoint_every: int = 1000  # iterations
    keep_checkpoints: int = 3
    evaluate_every: int | None = None  # iterations; None: every epoch, but at most 60 times in a run
    pictures: int = 4  # validation images that each evaluation draws
    max_skipped_steps: int = 10  # so many skipped steps in a row end the run
    max_broken: float = 0.01  # a larger share of unreadable training images ends the run; one such image never does

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            self._require_number(name, int, 1)
        self._require_number("max_skipped_steps", int, 1)
        for name in ("iterations", "evaluate_every"):
            self._require_number(name, int, 1, optional=True)
        for name in ("warmup_iterations", "workers", "pictures"):
            self._require_number(name, int, 0)
        self._require_number("seed", int, 0, 2**63 - 1)
        self._require_number("learning_rate", float, 0, exclusive=True)
        for name in ("epochs", "max_gradient_norm"):
            self._require_number(name, float, 0, exclusive=True, optional=True)
        for name in ("warmup_rate", "weight_decay"):
            self._require_number(name, float, 0)
        for name in ("decay_factor", "momentum", "max_broken"):
            self._require_number(name, float, 0, 1)
        self._require_number("average_decay", float, 0, 1, optional=True)
        self._require_choice("optimizer", get_args(Optimizer))
        self._require_choice("schedule", get_args(Schedule))
        self._require_choice("precision", get_args(Precision))
        self._require_choice("freeze_batch_norm", (True, False, None))
        for name in ("channels_last", "compile"):
            self._require_choice(name, (True, False))
        if not isinstance(self.augmentation, Augmentation):
            raise ValueError(f"augmentation must be an Augmentation, got {self.augmentation!r}")
        if self.iterations is not None and self.epochs is not None:
            raise ValueError(f"give iterations or epochs, not both: got {self.iterations} and {self.epochs}")

    def _require_number(
        self,
        name: str,
        kind: type[int] | type[float],
        least: float,
        most: float = math.inf,
        exclusive: bool = False,
        optional: bool = False,
    ) -> None:
        value = getattr(self, name)
        if value is None and optional:
            return
        right_type = isinstance(value, (int, kind)) and not isinstance(value, bool)
        if right_type and math.isfinite(value) and least <= value <= most and not (exclusive and value == least):
            return
        noun = "a whole number" if kind is int else "a number"
        if most < math.inf:
            limits = f"from {least} to {most}"
        else:
            limits = f"above {least}" if exclusive else f"of at least {least}"
        raise ValueError(f"{name} must be {noun} {limits}, got {value!r}")

    def _require_choice(self, name: str, choices: tuple[Any, ...]) -> None:
        value = getattr(self, name)
        if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
            raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """The settings from what `dataclasses.asdict` gives, for example "settings" of a run's config.json.

        A field that is missing has its default.

        Raises:
            ValueError: if a field is unknown or its value is out of range.
        """
        values = dict(values)
        _require_known(values, cls)
        if isinstance(augmentation := values.get("augmentation"), Mapping):
            _require_known(augmentation, Augmentation, "augmentation.")
            values["augmentation"] = Augmentation(**augmentation)
        return cls(**values)

    def deciding(self, images: int) -> dict[str, Any]:
        """The settings that decide what a run on `images` images learns, by name: all but `FREE_ON_RESUME`.

        The length is in iterations, however it was given. The augmentation's have names like "augmentation.rotate".
        """
        values = asdict(self)
        augmentation = values.pop("augmentation")
        del values["epochs"]
        values["iterations"] = self.total_iterations(images)
        deciding = {name: value for name, value in values.items() if name not in FREE_ON_RESUME}
        return deciding | {f"augmentation.{name}": value for name, value in augmentation.items()}

    def total_iterations(self, images: int) -> int:
        """The length of the run on a data set of `images` images."""
        if self.epochs is not None:
            return math.ceil(self.epochs * images / self.batch_size)
        if self.iterations is not None:
            return self.iterations
        return math.ceil(PUBLISHED_ITERATIONS * PUBLISHED_BATCH_SIZE / self.batch_size)

    def evaluation_interval(self, images: int) -> int:
        """Iterations between two evaluations on a data set of `images` images."""
        if self.evaluate_every is not None:
            return self.evaluate_every
        epoch = math.ceil(images / self.batch_size)
        return max(epoch, math.ceil(self.total_iterations(images) / EVALUATIONS))

    def rate_at(self, iteration: int, total: int) -> float:
        """The learning rate of `iteration`, 0 … total − 1.

        It rises linearly during the warm-up. Then it falls in steps, at the published fractions of the run, or as a
        cosine to zero.
        """
        peak = self.learning_rate * self.batch_size / PUBLISHED_BATCH_SIZE
        warmup = min(self.warmup_iterations, total // 10)
        if iteration < warmup:
            return self.warmup_rate + (peak - self.warmup_rate) * iteration / warmup
        if self.schedule == "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))
        passed = sum(iteration >= milestone * total / PUBLISHED_ITERATIONS for milestone in PUBLISHED_MILESTONES)
        return peak * self.decay_factor**passed


def _require_known(values: Mapping[str, Any], kind: type, prefix: str = "") -> None:
    known = [each.name for each in fields(kind)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(
            f"there is no setting called {', '.join(prefix + name for name in unknown)}; "
            f"there are {', '.join(prefix + name for name in known)}"
        )
