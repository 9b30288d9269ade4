"""The state of a run: how it begins, is saved and restored."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from yolact.config import Preset
from yolact.data.coco import CocoDataset
from yolact.models.yolact import Yolact
from yolact.training.checkpoints import CheckpointFolder
from yolact.training.identity import differences, run_identity
from yolact.training.initial import SCRATCH, initialise
from yolact.training.losses import Losses
from yolact.training.processes import Processes
from yolact.training.sampling import mixed_seed
from yolact.training.settings import TrainingSettings
from yolact.training.step import TrainingStep

SMALLEST_BATCH_FOR_NORM = 6  # the original trains batch norms only where they see at least so many images at a time


@dataclass
class Progress:
    """How far a run is: the part of its state that is plain numbers and text.

    iteration: steps done, skipped ones included.
    evaluated_at: the iteration of the last evaluation.
    best_ap: the best mask AP so far, 0–100; −1 before the first evaluation.
    skipped_in_a_row: the last steps that were skipped.
    window: sums of the losses since they were last recorded, in the order of `Losses`.
    window_steps: steps in these sums.
    broken: one message for each training image that could not be read.
    """

    iteration: int = 0
    evaluated_at: int = 0
    best_ap: float = -1.0
    skipped_in_a_row: int = 0
    window: tuple[float, ...] = (0.0,) * len(Losses._fields)
    window_steps: int = 0
    broken: tuple[str, ...] = ()

    def add_losses(self, losses: Sequence[float]) -> None:
        """Adds the losses of a step, in the order of `Losses`, to the window."""
        self.window = tuple(total + value for total, value in zip(self.window, losses, strict=True))
        self.window_steps += 1


class RunState:
    """The state of a run: its network, optimizer and progress.

    Attributes:
        step: the network with its losses.
        model: `step` as the processes share it.
        optimizer: of `model`.
        average: the moving average of the weights, or None.
        progress: how far the run is.

    Args:
        network: trained in place.
        freeze_batch_norm: keep the batch norms as they are.
        identity: what `run_identity` gives.
        settings, processes, checkpoints: those of the run.
    """

    def __init__(
        self,
        network: Yolact,
        freeze_batch_norm: bool,
        identity: dict[str, Any],
        settings: TrainingSettings,
        processes: Processes,
        checkpoints: CheckpointFolder,
    ):
        self.identity, self.processes, self.checkpoints = identity, processes, checkpoints
        self.step = TrainingStep(network, freeze_batch_norm, settings.channels_last, settings.compile)
        self.step.to(processes.device)
        self.model: nn.Module
        self.optimizer: torch.optim.Optimizer
        self.model, self.optimizer = processes.accelerator.prepare(self.step, _optimizer_of(self.step, settings))
        self.average_decay = settings.average_decay
        self.average: Yolact | None = None
        if settings.average_decay is not None:
            self.average = Yolact(network.preset, network.num_classes).to(processes.device).requires_grad_(False)
            self.average.load_state_dict(network.state_dict())
        self.progress = Progress()

    @property
    def network(self) -> Yolact:
        """The network in training."""
        return self.step.network

    @property
    def weights(self) -> Yolact:
        """The network to evaluate and to keep: the average where there is one."""
        return self.network if self.average is None else self.average

    def update_average(self) -> None:
        """Moves the average, where there is one, towards the network."""
        if self.average is None or self.average_decay is None:
            return
        steps = self.progress.iteration
        # Early weights are soon forgotten.
        decay = min(self.average_decay, (1 + steps) / (10 + steps))
        get_ema_multi_avg_fn(decay)(list(self.average.parameters()), list(self.network.parameters()), steps)
        for mean, buffer in zip(self.average.buffers(), self.network.buffers(), strict=True):
            mean.copy_(buffer)

    def take_mean_losses(self) -> dict[str, float]:
        """The mean losses since the last call, by name; nothing if no step was taken."""
        steps, sums = self.progress.window_steps, dict(zip(Losses._fields, self.progress.window, strict=True))
        self.progress.window, self.progress.window_steps = (0.0,) * len(sums), 0
        if not self.network.preset.rescores_masks:
            del sums["mask_iou"]
        return {name: total / steps for name, total in sums.items()} if steps else {}

    def save(self) -> None:
        """Writes a checkpoint. All processes take part."""
        device, scaler = self.processes.device, self.processes.accelerator.scaler
        random: dict[str, Tensor] = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(device)
        randoms = self.processes.gathered([random])
        if not self.processes.main:
            return
        self.checkpoints.save(
            self.progress.iteration,
            {
                "run": self.identity,
                "network": self.network.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "random": randoms,
                "progress": asdict(self.progress),
                "freeze_batch_norm": self.step.freeze_batch_norm,
            },
        )

    def restore(self, saved: dict[str, Any]) -> None:
        """Takes over what `save` wrote. With another number of processes, other random numbers are drawn from here on.

        Raises:
            ValueError: if it is of another run.
        """
        if different := differences(saved["run"], self.identity):
            raise ValueError(
                f"{self.checkpoints.path} holds another run, with {'; '.join(different)}: resume it with the same data "
                f"and settings, or give another output folder"
            )
        device, scaler = self.processes.device, self.processes.accelerator.scaler
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        if scaler is not None:
            scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])
        if len(saved["random"]) == self.processes.count:
            random = saved["random"][self.processes.rank]
            torch.set_rng_state(random["cpu"])
            if device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], device)


def begin(
    preset: Preset,
    train_data: CocoDataset,
    settings: TrainingSettings,
    processes: Processes,
    checkpoints: CheckpointFolder,
    weights: str | os.PathLike[str],
    share_size: int,
    resume: bool,
    val_data: CocoDataset | None = None,
) -> RunState:
    """The state of a new run, or of the one to resume.

    Args:
        preset: of the network.
        train_data: its classes are the network's.
        settings, processes: those of the run.
        checkpoints: the run's; empty unless it is resumed.
        weights: what a new run starts from, see `yolact.training.initial.initialise`.
        share_size: images of one forward pass.
        resume: go on from the newest checkpoint, if there is one.
        val_data: to validate with, if any.

    Raises:
        CheckpointError, DownloadError: if the weights cannot be had, or none of the run's checkpoints can be read.
        ValueError: if there is a run that is not to be resumed, or that is another one.
    """
    if checkpoints.saved() and not resume:
        raise ValueError(
            f"{checkpoints.path} holds a run already: go on with it (--resume) or give another output folder"
        )
    saved = checkpoints.load() if resume else None
    torch.manual_seed(mixed_seed(settings.seed, processes.rank))
    network = Yolact(preset, len(train_data.class_names))
    if saved is None:
        with processes.accelerator.main_process_first():
            processes.say(initialise(network, weights))
        freeze = settings.freeze_batch_norm
        if freeze is None:
            freeze = os.fspath(weights) != SCRATCH and share_size < SMALLEST_BATCH_FOR_NORM
            if freeze:
                processes.say(
                    f"batch norms stay as they are: {share_size} images at a time are fewer than "
                    f"{SMALLEST_BATCH_FOR_NORM}"
                )
    else:
        freeze = saved["freeze_batch_norm"]
    identity = run_identity(preset, train_data, settings, None if freeze else share_size, val_data)
    state = RunState(network, freeze, identity, settings, processes, checkpoints)
    if saved is not None:
        state.restore(saved)
        processes.say(f"resumed at iteration {state.progress.iteration} of {identity['iterations']}")
    return state


def _optimizer_of(step: TrainingStep, settings: TrainingSettings) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in step.parameters() if parameter.requires_grad]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, settings.learning_rate, settings.momentum, weight_decay=settings.weight_decay)
