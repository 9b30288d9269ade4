"""What happens to steps whose loss is not finite, and to images that cannot be read."""

import math
from pathlib import Path

from torch import Tensor

from yolact.data.problems import counted
from yolact.training.logs import RunLog
from yolact.training.losses import Losses
from yolact.training.processes import Processes
from yolact.training.settings import TrainingSettings
from yolact.training.state import Progress


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to do."""


class Health:
    """Reports what goes wrong in a run, and ends the run where it goes wrong too often.

    Args:
        settings: with how often that is.
        images: in the training set.
        progress: of the run; skipped steps and broken images are counted in it.
        processes: those of the run.
        log: where skipped steps are recorded.
        output: the run's folder, for messages.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        images: int,
        progress: Progress,
        processes: Processes,
        log: RunLog,
        output: Path,
    ):
        self.settings, self.images, self.progress = settings, images, progress
        self.processes, self.log, self.output = processes, log, output

    def not_finite(self, losses: list[float], gradient_norm: Tensor) -> list[str]:
        """What of a step is infinite or NaN, by name; nothing in a good step.

        Args:
            losses: the parts, in the order of `Losses`.
            gradient_norm: scalar. It may be infinite where losses are scaled (fp16): the scaler then skips the step
                and lowers its scale.
        """
        names = [name for name, value in zip(Losses._fields, losses, strict=True) if not math.isfinite(value)]
        if not names and self.processes.accelerator.scaler is None and not gradient_norm.isfinite():
            return ["gradient"]
        return names

    def skip(self, names: list[str], images: list[str]) -> None:
        """Reports that a step was skipped. All processes take part.

        Args:
            names: what was not finite.
            images: paths of the images of this process that may be the cause.

        Raises:
            TrainingError: if too many steps in a row were skipped.
        """
        progress = self.progress
        progress.skipped_in_a_row += 1
        images = self.processes.gathered(images)
        listed = ", ".join(images[:16]) or "no single image"
        self.processes.say(
            f"iteration {progress.iteration}: {' and '.join(names)} not finite, the step is skipped; images: {listed}"
        )
        self.log.skipped(progress.iteration, names, images)
        if progress.skipped_in_a_row >= self.settings.max_skipped_steps:
            verb = "was" if progress.skipped_in_a_row == 1 else "were"
            raise TrainingError(
                f"{counted(progress.skipped_in_a_row, 'step')} in a row {verb} not finite ({', '.join(names)}): "
                f"check the data (yolact data check), then train into another folder with a lower learning rate, a "
                f"max_gradient_norm, or bf16 or fp32 in place of fp16; the last checkpoint of this run is in "
                f"{self.output}"
            )

    def leave_out(self, messages: list[str]) -> None:
        """Reports images that cannot be read, each once. All processes take part.

        Args:
            messages: of this process, each with the name of a file.

        Raises:
            TrainingError: if the training set has too many such images.
        """
        progress = self.progress
        new = sorted(set(self.processes.gathered(messages)) - set(progress.broken))
        progress.broken += tuple(new)
        for message in new:
            self.processes.say(f"left out: {message}")
        broken, most = len(progress.broken), self.settings.max_broken
        if broken > 1 and broken / self.images > most:
            raise TrainingError(
                f"{broken} of {self.images} training images cannot be read, more than {most:.0%}: repair the data set "
                f"(yolact data check lists what is wrong)"
            )
