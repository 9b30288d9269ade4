"""The checkpoint files of a training run."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from yolact.files import make_folder, written_whole
from yolact.weights.checkpoints import CheckpointError

FORMAT = 1


class CheckpointFolder:
    """The newest checkpoints of a run, `checkpoint-0001000.pt` and so on.

    A file has its name only when it is complete: if the program stops while it writes, the checkpoint before remains.

    Args:
        path: of the folder, made if missing.
        keep: how many checkpoints stay.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int):
        self.path = Path(path)
        self.keep = keep

    def saved(self) -> list[tuple[int, Path]]:
        """(iteration, file) of each checkpoint, the oldest first."""
        checkpoints = []
        for path in self.path.glob("checkpoint-*.pt"):
            if number := re.fullmatch(r"checkpoint-(\d+)\.pt", path.name):
                checkpoints.append((int(number[1]), path))
        return sorted(checkpoints)

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Writes `state` as the checkpoint of `iteration`, then removes all but the newest.

        Raises:
            OSError: if it cannot be written.
        """
        make_folder(self.path)
        # The run has the folder's lock, so their process is dead, even if another process has its number now.
        for left_over in self.path.glob(".checkpoint-*.part"):
            left_over.unlink()
        with written_whole(self.path / f"checkpoint-{iteration:07d}.pt") as file:
            torch.save({"format": FORMAT, "iteration": iteration, **state}, file)
        for _, path in self.saved()[: -self.keep]:
            path.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None if there is none; warns of those that cannot be read.

        Raises:
            CheckpointError: if there are checkpoints, but none can be read.
        """
        saved = self.saved()
        for _, path in reversed(saved):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # broken bytes make torch.load raise anything
                warnings.warn(f"{path}: this checkpoint is broken and not used ({error})", stacklevel=2)
                continue
            if isinstance(state, dict) and state.get("format") == FORMAT:
                return state
            warnings.warn(f"{path}: this checkpoint is of another version of the program and not used", stacklevel=2)
        if saved:
            raise CheckpointError(
                f"{self.path}: the run cannot be resumed, because none of its checkpoints can be read "
                f"({', '.join(path.name for _, path in saved)}): put a copy of one there, or start a run in another "
                f"folder, for example with --weights and this run's best.safetensors"
            )
        return None
