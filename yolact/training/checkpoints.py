"""Checkpoints of a training run: everything that it needs to go on as if it had never stopped."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from yolact.files import written_whole

FORMAT = 1


class CheckpointFolder:
    """The last few checkpoints of a run, `checkpoint-0001000.pt` and so on.

    A file appears under its name only when it is whole, so whatever stops the program leaves the one before.

    Args:
        path: made if missing.
        keep: how many checkpoints stay.
    """

    def __init__(self, path: str | os.PathLike[str], keep: int):
        self.path = Path(path)
        self.keep = keep

    def saved(self) -> list[tuple[int, Path]]:
        """(iteration, file) of each checkpoint, the oldest first."""
        found = []
        for path in self.path.glob("checkpoint-*.pt"):
            if number := re.fullmatch(r"checkpoint-(\d+)\.pt", path.name):
                found.append((int(number[1]), path))
        return sorted(found)

    def save(self, iteration: int, state: dict[str, Any]) -> None:
        """Writes `state` as the checkpoint of `iteration`, then removes those there are too many.

        Raises:
            OSError: if it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        for left_over in self.path.glob(".checkpoint-*.part"):
            left_over.unlink()
        with written_whole(self.path / f"checkpoint-{iteration:07d}.pt") as temporary:
            torch.save({"format": FORMAT, "iteration": iteration, **state}, temporary)
        for _, path in self.saved()[: -self.keep]:
            path.unlink()

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, or None where there is none; warns of those that cannot."""
        for _, path in reversed(self.saved()):
            try:
                state = torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:  # torch.load raises whatever the broken bytes provoke
                warnings.warn(f"{path}: a broken checkpoint is passed over ({error})", stacklevel=2)
                continue
            if state.get("format") == FORMAT:
                return state
            warnings.warn(f"{path}: a checkpoint of another version is passed over", stacklevel=2)
        return None
