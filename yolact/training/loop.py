"""The training loop, for one process or many."""

import os
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from yolact.config import Preset
from yolact.data.coco import CocoDataset
from yolact.data.start import check_training_data
from yolact.files import check_writable
from yolact.precision import slow_training
from yolact.training.checkpoints import CheckpointFolder
from yolact.training.health import Health
from yolact.training.initial import IMAGENET
from yolact.training.lock import RunLock
from yolact.training.logs import FILES_OF_A_RUN, Display, RunLog, write_curves, write_report
from yolact.training.losses import Counts, Losses, normalised
from yolact.training.processes import Processes, StopSignal
from yolact.training.sampling import ShareSampler, load_batches
from yolact.training.settings import TrainingSettings
from yolact.training.state import RunState, begin
from yolact.training.step import Share
from yolact.training.validation import BEST_WEIGHTS, Validation
from yolact.weights.checkpoints import save_weights

FINAL_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    iteration: steps done.
    finished: False where a signal ended it; it can be resumed.
    best_ap: the best mask AP, 0–100; None without an evaluation.
    weights: the final weights of a finished run.
    """

    iteration: int
    finished: bool
    best_ap: float | None
    weights: Path | None


def train(
    preset: Preset,
    train_data: CocoDataset,
    output: str | os.PathLike[str],
    settings: TrainingSettings | None = None,
    val_data: CocoDataset | None = None,
    weights: str | os.PathLike[str] = IMAGENET,
    resume: bool = False,
    cpu: bool = False,
    console: Console | None = None,
) -> TrainingResult:
    """Trains a network to the end, or to a SIGINT or SIGTERM, at which it writes a checkpoint.

    The output folder receives checkpoints/, best.safetensors, weights.safetensors, metrics.jsonl, tensorboard/,
    config.json, curves.png, report.md and report.json. In a program that torchrun or `accelerate launch` started, the
    processes train together and leave their group at the end.

    Args:
        preset: of the network; its class count follows the data.
        train_data: the augmentation of the settings follows its transform, if it has one.
        output: the run's folder.
        settings: how to train; the defaults of `TrainingSettings` where they are None.
        val_data: evaluated during and after training where given; its transform is not used.
        weights: what to start from, see `yolact.training.initial.initialise`.
        resume: go on from the newest checkpoint in `output`, if there is one.
        cpu: train on the CPU even where there is a GPU.
        console: for messages and the progress bar; standard error by default.

    Raises:
        DataError: if there is nothing to learn or to validate with, or too many images cannot be used.
        ValueError: if the folder holds another run, another run is writing into it, the batch cannot be divided or the
            data do not fit.
        CheckpointError, DownloadError: if the weights cannot be had, or none of the run's checkpoints can be read.
        WriteError: if a file of the run cannot be written; the run can be resumed.
        TrainingError: if the losses stay infinite or NaN, or too many images cannot be read.
    """
    settings, output = settings or TrainingSettings(), Path(output)
    images, total = len(train_data), settings.total_iterations(len(train_data))
    processes = Processes(settings.precision, cpu, console)
    notes = check_training_data(train_data, settings.max_broken)
    for line in filter(None, (slow_training(settings.precision, processes.device), *notes)):
        processes.say(line)
    validation = Validation(val_data, train_data, settings, processes, output)
    sampler = ShareSampler(
        images, settings.batch_size, 0, total, settings.seed, processes.count, processes.rank, settings.accumulation
    )
    checkpoints = CheckpointFolder(output / "checkpoints", settings.keep_checkpoints)
    with RunLock(checkpoints.path, processes):
        if processes.main:  # a run must not find out at its end that something is in the way
            for name in (FINAL_WEIGHTS, BEST_WEIGHTS, *FILES_OF_A_RUN):
                check_writable(output / name)
        state = begin(
            preset, train_data, settings, processes, checkpoints, weights, sampler.share_size, resume, val_data
        )
        progress, stopped = state.progress, False
        sampler.first = progress.iteration
        evaluated_at = min(progress.evaluated_at, total - 1)  # the last evaluation is made again, for the report
        with (
            closing(RunLog(output, progress.iteration, evaluated_at, processes.main)) as log,
            Display(processes.console, progress.iteration, total, settings.batch_size, processes.main) as display,
            # Closing ends the loader's processes now and not when the program exits.
            closing(load_batches(train_data, preset, settings, sampler, processes.device)) as batches,
            StopSignal() as stop,
        ):
            log.config(preset.name, train_data.class_names, total, settings)
            health = Health(settings, images, progress, processes, log, output)
            while not stopped:
                if validation.is_due(progress):
                    stopped = validation.evaluate(state, log, stop)
                    display.restart_clock(progress.iteration)
                    continue
                if progress.iteration == total:
                    break

                loaded = list(islice(batches, settings.accumulation))
                shares = [state.step.share(batch) for batch in loaded]
                broken = [message for batch in loaded for message in batch.broken]
                counts, any_stop, any_broken = count_together(processes, shares, stop.received, bool(broken))
                take_step(state, shares, counts, settings.rate_at(progress.iteration, total), settings, health)
                if any_broken:
                    health.leave_out(broken)

                stopped, iteration = bool(any_stop), progress.iteration
                if iteration % settings.log_every == 0 or iteration == total:
                    rate, losses = display.images_per_second(iteration), state.take_mean_losses()
                    if losses:
                        epoch = iteration * settings.batch_size / images
                        numbers = {"learning_rate": settings.rate_at(iteration - 1, total), "epoch": epoch}
                        log.losses(iteration, losses, {**numbers, "images_per_second": rate})
                        display.losses(iteration, losses, rate)
                display.advance(iteration)
                is_saved = iteration % settings.checkpoint_every == 0 or iteration == total
                if stopped or is_saved or validation.is_due(progress):
                    state.save()
                if stopped:
                    processes.say(f"stopped by a signal at iteration {iteration}; --resume goes on from here")

        if processes.main and not stopped:
            save_weights(state.weights, output / FINAL_WEIGHTS, train_data.class_names)
            write_curves(output)
            if validation.scores is not None:
                title = f"{preset.name}, {progress.iteration} iterations, best mask AP {progress.best_ap:.1f}"
                write_report(output, title, validation.scores)
            processes.say(f"done: {output / FINAL_WEIGHTS}")
    processes.end()
    best_ap = progress.best_ap if progress.best_ap >= 0 else None
    return TrainingResult(progress.iteration, not stopped, best_ap, None if stopped else output / FINAL_WEIGHTS)


def count_together(
    processes: Processes, shares: list[Share], stop: bool, broken: bool
) -> tuple[Counts, Tensor, Tensor]:
    """The counts of the whole batch, and in how many processes `stop` and `broken` are true.

    They stay tensors, because reading them would wait for the GPU before the step is computed.
    """
    own = torch.stack([torch.stack(share.counts) for share in shares]).sum(dim=0)
    flags = torch.tensor([stop, broken], device=own.device)
    *counts, any_stop, any_broken = processes.summed(torch.cat((own, flags)))
    return Counts(*counts), any_stop, any_broken


def take_step(
    state: RunState, shares: list[Share], counts: Counts, rate: float, settings: TrainingSettings, health: Health
) -> None:
    """One step of the optimizer, skipped where a loss or the gradient is not finite.

    Args:
        state: whose network, optimizer, average and progress it changes.
        shares: of this process.
        counts: of the whole batch.
        rate: the learning rate.
        settings: of the run.
        health: which reports a skipped step.
    """
    step, progress, processes, accelerator = state.step, state.progress, state.processes, state.processes.accelerator
    statistics = [(buffer, buffer.clone()) for buffer in step.statistics()]
    losses = torch.zeros(len(Losses._fields), device=processes.device)
    suspects: list[str] = []
    for share in shares:
        with nullcontext() if share is shares[-1] else accelerator.no_sync(state.model):
            sums = Losses(*state.model(share.images, share.targets, share.matches))
            parts = normalised(sums, counts, step.network.preset.loss)
            # The processes' gradients are averaged, but these losses are parts of a sum.
            accelerator.backward(parts.total() * (share.weight * processes.count))
        of_share = torch.stack(parts).detach() * share.weight
        if not of_share.isfinite().all():
            suspects += share.paths
        losses += of_share
    values = processes.summed(losses).tolist()

    for group in state.optimizer.param_groups:
        group["lr"] = rate
    accelerator.unscale_gradients(state.optimizer)
    norm = torch.nn.utils.get_total_norm([p.grad for p in step.parameters() if p.grad is not None])
    progress.iteration += 1
    if wrong := health.not_finite(values, norm):
        for buffer, before in statistics:
            buffer.copy_(before)
        state.optimizer.zero_grad()
        # Without a loss that is not finite, any image may have made the gradient so.
        health.skip(wrong, [path for share in shares for path in share.paths] if wrong == ["gradient"] else suspects)
        return
    progress.skipped_in_a_row = 0
    if settings.max_gradient_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(step.parameters(), settings.max_gradient_norm, norm)
    state.optimizer.step()
    state.optimizer.zero_grad()
    state.update_average()
    progress.add_losses(values)
