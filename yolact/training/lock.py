"""One run at a time in a folder."""

import fcntl
import os
from pathlib import Path

from yolact.files import make_folder, reported
from yolact.training.processes import Processes

_NAME = ".lock"


class RunLock:
    """Holds a folder for one run within its `with` block. The system lets go when the run's process dies.

    Of a run's processes the main one holds it. Where the file system has no locks, a message says so.

    Args:
        folder: with the run's checkpoints; made if missing. The file `.lock` in it stays there and is empty.
        processes: those of the run.

    Raises:
        ValueError: at the begin of the block, in all processes, if another run holds the folder.
        WriteError: if the lock's file cannot be made.
    """

    def __init__(self, folder: Path, processes: Processes):
        self.folder, self.processes = folder, processes
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        if self.processes.of_main(self._is_taken() if self.processes.main else None):
            raise ValueError(
                f"{self.folder}: another run is writing into this folder: wait for its end, or give another folder (-o)"
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()

    def _is_taken(self) -> bool:
        make_folder(self.folder)
        with reported(self.folder / _NAME):
            self._descriptor = os.open(self.folder / _NAME, os.O_RDWR | os.O_CREAT, 0o666)
        # A loader process is a copy of this one, and would hold the lock for seconds after this one was killed.
        os.register_at_fork(after_in_child=self._release)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            return True
        except OSError as error:
            self.processes.say(f"{self.folder}: nothing stops a second run in this folder ({error.strerror})")
        return False

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
