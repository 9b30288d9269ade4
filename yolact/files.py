"""Writes files. A reader never sees half of one, and a write that fails is one clear message."""

import errno
import fcntl
import io
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LONGEST_NAME = 255  # bytes, on all file systems of Linux
_LOOKED_AT = 10_000  # entries of a folder, so that the search takes a few milliseconds in any folder
_PERMISSIONS = 0o777
_OPEN_FILE = re.compile(r"/(?:dev/(stdin|stdout|stderr)|(?:dev|proc/self)/fd/(\d{1,9}))")
_UNFINISHED = re.compile(r"\..+\.(\d{1,9})\.part", re.DOTALL)
_ADVICE = {
    errno.ENOSPC: "free space there, or choose another folder",
    errno.EDQUOT: "free space there, or choose another folder",
    errno.EFBIG: "the file system or `ulimit -f` allows no larger file",
    errno.EACCES: "change the permissions, or choose another folder",
    errno.EPERM: "change the permissions, or choose another folder",
    errno.EROFS: "choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "give the name of a file in it",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EEXIST: "this is a file",
}


class WriteError(OSError):
    """A file or folder that cannot be written. The message names it, says why and, where that helps, what to do."""


class MissingFolderError(WriteError, FileNotFoundError):
    """A file that cannot be written because its folder does not exist."""


def write_error(path: str | os.PathLike[str], error: OSError, verb: str = "written") -> WriteError:
    """The error of writing to `path` in words.

    Args:
        path: as the user gave it.
        error: what the system said.
        verb: what cannot be done, for example "written".
    """
    problem, folder = f"{os.fspath(path)}: cannot be {verb}", Path(path).parent
    if error.errno == errno.ENOENT and not folder.is_dir():
        return MissingFolderError(f"{problem}: the folder {folder} does not exist: create it first")
    advice = f": {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
    return WriteError(f"{problem}: {error.strerror or error}{advice}")


@contextmanager
def reported(path: str | os.PathLike[str], verb: str = "written") -> Iterator[None]:
    """Turns an OSError of the block into a `WriteError` about `path`."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise write_error(path, error, verb) from error


@contextmanager
def temporary_space() -> Iterator[None]:
    """Turns an OSError of a block that writes temporary files into a `WriteError` that names TMPDIR."""
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp"
        raise WriteError(
            f"{folder}: temporary files cannot be written: {error.strerror or error}: free space there, or set TMPDIR "
            f"to another folder"
        ) from error


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write into. It becomes `path` if the block and every write succeed; otherwise `path` stays as it was.

    Until then it is a temporary file beside `path`. Those that dead processes left in that folder are removed. The
    file is on the disk before it gets its name, so it is whole after a power failure too, and an error that the system
    tells late is noticed. A link is followed, and an existing file keeps its permissions. A device or a pipe is
    written directly, and so is an open file of this process, such as /dev/stdout.

    A write that fails is kept and raised at the end: told at once, some libraries hide it, replace it or abort.

    Raises:
        WriteError: if the file cannot be written.
    """
    with reported(path):
        target = Path(os.path.realpath(path))
        direct = _is_special(path)
        if direct:
            raw = _RawFile(_open_special(path))
        else:
            remove_leftovers(target.parent)
            place = _temporary(target)
            raw = _RawFile(_open_locked(place, os.O_WRONLY | os.O_CREAT))
    file = io.BufferedWriter(raw)
    try:
        if not direct:
            with reported(path):
                os.ftruncate(raw.descriptor, 0)
                _keep_permissions(raw.descriptor, target)
        yield file
        with reported(path):
            file.flush()
            if raw.failure is not None:
                raise raw.failure
            if not direct:
                os.fsync(raw.descriptor)
            # What the system tells when a file is closed is heard while the file stays locked, until it has its name.
            os.close(os.dup(raw.descriptor))
            if not direct:
                os.replace(place, target)
    except BaseException:
        if not direct:
            with suppress(OSError):
                place.unlink()
        raise
    finally:
        with suppress(OSError):
            file.close()


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises `WriteError` if `path` cannot be written now. Call it before long work whose result goes there."""
    with reported(path):
        if not _is_special(path):
            _check_place(_temporary(Path(os.path.realpath(path))))


def check_folder_writable(folder: str | os.PathLike[str]) -> None:
    """Raises `WriteError` if no file can be written into `folder` now."""
    with reported(folder):
        _check_place(_temporary(Path(folder, "check")))


def _check_place(place: Path) -> None:
    descriptor = _open_locked(place, os.O_WRONLY | os.O_CREAT)
    try:
        place.unlink()
    finally:
        os.close(descriptor)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file whole, in UTF-8.

    Raises:
        WriteError: if it cannot be written.
    """
    with written_whole(path) as file:
        file.write(text.encode())


def write_picture(path: str | os.PathLike[str], picture: Tensor) -> None:
    """Writes a picture whole, as PNG.

    Args:
        path: of the file.
        picture: uint8 RGB [3, H, W] on the CPU.

    Raises:
        WriteError: if it cannot be written.
    """
    pixels = picture.permute(1, 2, 0).contiguous().numpy()
    with written_whole(path) as file:
        Image.fromarray(pixels).save(file, "PNG")


@contextmanager
def folder_written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into. It becomes `path`, which must be missing or empty, if the block succeeds.

    Until then it is a temporary folder beside `path`, see `written_whole`.

    Raises:
        WriteError: if the folder cannot be made, and in place of an OSError of the block.
    """
    with reported(path):
        target = Path(os.path.realpath(path))
        os.makedirs(target.parent, exist_ok=True)
        remove_leftovers(target.parent)
        place = _temporary(target)
        shutil.rmtree(place, ignore_errors=True)
        os.mkdir(place)
        descriptor = _open_locked(place, os.O_RDONLY)
        try:
            yield place
            os.replace(place, target)
        finally:
            os.close(descriptor)
            shutil.rmtree(place, ignore_errors=True)


def make_folder(path: str | os.PathLike[str]) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        WriteError: if that cannot be done.
    """
    with reported(path, "made"):
        os.makedirs(path, exist_ok=True)


class _Output:
    """Standard output that remembers the first write that failed. What follows goes nowhere, so that work goes on."""

    def __init__(self, stream: TextIO):
        self.failure: OSError | None = None
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._kept():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with self._kept():
            self._stream.flush()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            # Otherwise Python would try again when it ends, and say it in its own way.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def reported_output() -> Iterator[None]:
    """Notices what the block prints and nobody gets. The block runs to its end, and the end writes what is left.

    File names that are not UTF-8 are printed as they are. Other characters that the terminal lacks are escaped.

    Raises:
        BrokenPipeError: if the reader of standard output stopped reading.
        WriteError: if standard output cannot be written for another reason.
    """
    if sys.stdout is None:  # closed by whoever started the program
        yield
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    output, end = _Output(sys.stdout), None
    with redirect_stdout(cast(TextIO, output)):
        try:
            yield
        except SystemExit as exit_:
            end = exit_
        finally:
            output.flush()
    if isinstance(output.failure, BrokenPipeError):
        raise output.failure
    if output.failure is not None:
        raise write_error("standard output", output.failure) from output.failure
    if end is not None:
        raise end


class AppendedFile:
    """A file that grows piece by piece. A piece that cannot be written whole is taken back.

    Args:
        path: of the file, which is made if missing.

    Raises:
        WriteError: if it cannot be opened; `write` raises it too.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = path
        with reported(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def write(self, piece: bytes) -> None:
        """Appends a piece."""
        with reported(self.path):
            end = os.fstat(self._descriptor).st_size
            try:
                write_all(self._descriptor, piece)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, end)
                raise

    def close(self) -> None:
        """Closes the file."""
        with reported(self.path):
            os.close(self._descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data` to an open file. A single call of the system may write a part of it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def remove_leftovers(folder: Path) -> None:
    """Removes the temporary files and folders of `written_whole` that dead processes left in `folder`.

    A process is dead if it does not live on this machine and has no lock on its file. The lock is there because a
    process of another machine or container may write into the same folder.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(islice(entries, _LOOKED_AT)):
            unfinished = _UNFINISHED.fullmatch(entry.name)
            if unfinished and not _is_another_living_process(int(unfinished[1])):
                with suppress(OSError):
                    _remove_unless_locked(entry)


def _remove_unless_locked(entry: os.DirEntry[str]) -> None:
    is_folder = entry.is_dir(follow_symlinks=False)
    descriptor = os.open(entry.path, (os.O_RDONLY if is_folder else os.O_RDWR) | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_folder:
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            os.unlink(entry.path)
    finally:
        os.close(descriptor)


def _is_another_living_process(number: int) -> bool:
    if number == os.getpid():  # the process that wrote the file had this number, perhaps in another container
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to a device, a pipe or an open file of this process.

    Raises:
        OSError: if it is a folder, or its own folder is missing.
    """
    if _open_file_named(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "this is a folder")
    return not stat.S_ISREG(mode)


def _open_file_named(path: str | os.PathLike[str]) -> int | None:
    """The descriptor that a path such as /dev/stdout names."""
    match = _OPEN_FILE.fullmatch(os.fspath(path))
    return None if match is None else int(match[2] or {"stdin": 0, "stdout": 1, "stderr": 2}[match[1]])


def _open_special(path: str | os.PathLike[str]) -> int:
    descriptor = _open_file_named(path)
    if descriptor is None:
        return os.open(path, os.O_WRONLY)
    # Opened by its name, a file that this process writes to would be overwritten from its beginning.
    if sys.stdout is not None:
        sys.stdout.flush()
    return os.dup(descriptor)


def _temporary(target: Path) -> Path:
    """The place of a file until it is whole: `.NAME.PROCESS.part` beside `target`, with a long name cut short."""
    ending = f".{os.getpid()}.part"
    return target.with_name(os.fsdecode(os.fsencode(f".{target.name}")[: _LONGEST_NAME - len(ending)]) + ending)


def _open_locked(path: Path, flags: int) -> int:
    """Opens a file or folder and locks it as long as it is open, where the file system can."""
    while True:
        descriptor = os.open(path, flags, 0o666)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # another machine took it for a leftover before it was locked


def _keep_permissions(descriptor: int, target: Path) -> None:
    """Gives an open file the permissions of the file that it will replace, if there is one."""
    with suppress(FileNotFoundError):
        old = os.stat(target).st_mode & _PERMISSIONS
        if old != os.fstat(descriptor).st_mode & _PERMISSIONS:
            os.fchmod(descriptor, old)


class _RawFile(io.RawIOBase):
    """A file that keeps the error of its first write that failed, and takes what follows without writing it.

    It has no `fileno`: Pillow would write there past `write`, and would not say why that failed.
    """

    def __init__(self, descriptor: int):
        self.descriptor = descriptor
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer", /) -> int:
        if self.failure is None:
            try:
                return os.write(self.descriptor, data)
            except OSError as error:
                self.failure = error
        return memoryview(data).nbytes

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.descriptor)
