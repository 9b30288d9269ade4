"""A run's records for TensorBoard."""

import io
import os
import socket
import time
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import scalar

from yolact.files import AppendedFile, make_folder


class Board:
    """Writes numbers and pictures for TensorBoard, each at once.

    torch's `SummaryWriter` writes in a thread: an error there is a traceback, and reaches the run late or never.

    Args:
        folder: made if missing. Each `Board` adds a file to it.
        purge: TensorBoard hides what earlier files hold of this iteration and later ones.

    Raises:
        WriteError: if the file cannot be written; the methods raise it too.
    """

    def __init__(self, folder: Path, purge: int | None = None):
        make_folder(folder)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = AppendedFile(folder / name)
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        if purge is not None:
            self._add(step=purge, session_log=SessionLog(status=SessionLog.START))

    def scalar(self, name: str, value: float, iteration: int) -> None:
        """Records a number."""
        self._add(step=iteration, summary=scalar(name, value))

    def picture(self, name: str, picture: Tensor, iteration: int) -> None:
        """Records a picture, uint8 [3, H, W]."""
        # torch's function for this makes three copies in float32.
        png = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy()).save(png, "PNG")
        _, height, width = picture.shape
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png.getvalue())
        self._add(step=iteration, summary=Summary(value=[Summary.Value(tag=name, image=image)]))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _add(self, **fields: Any) -> None:
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())
