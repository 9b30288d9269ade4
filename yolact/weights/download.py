"""Published checkpoints: a file is downloaded from its publisher when it is first used, and then kept."""

import errno
import os
import sys
import tempfile
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from yolact.config import Preset
from yolact.files import WriteError

_ASSETS = Path(__file__).parent.parent / "assets"
_UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST,
}  # fmt: skip


class DownloadError(OSError):
    """A published checkpoint could not be fetched; the message has its address and says what to do instead."""


def cached_file(preset: Preset) -> Path | None:
    """The preset's published checkpoint on this machine, or None if it has not been fetched."""
    publication = preset.publication
    if publication.bundled:
        return _ASSETS / publication.file
    if publication.hub_repository:
        cached = huggingface_hub.try_to_load_from_cache(publication.hub_repository, publication.file)
        return Path(cached) if isinstance(cached, str) else None
    path = _torch_cache() / publication.file
    return path if publication.file and path.is_file() else None


def fetch(preset: Preset) -> Path:
    """The preset's published checkpoint, downloaded if it is not in the cache; on a terminal with a progress bar.

    Raises:
        ValueError: if none is published.
        DownloadError: if it could not be fetched.
        WriteError: if the cache cannot be written.
    """
    publication = preset.publication
    if (cached := cached_file(preset)) is not None:
        return cached
    if not publication.address:
        raise ValueError(f"no weights of {preset.name} are published: give the path of your own checkpoint file")
    show_progress = sys.stderr.isatty()
    try:
        if publication.hub_repository:
            if not show_progress:
                huggingface_hub.utils.disable_progress_bars()
            return Path(huggingface_hub.hf_hub_download(publication.hub_repository, publication.file))
        path = _torch_cache() / publication.file
        path.parent.mkdir(parents=True, exist_ok=True)
        # torch leaves half a file where the disk is full.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".yolact-") as folder:
            part = os.path.join(folder, path.name)
            torch.hub.download_url_to_file(publication.url, part, publication.sha256_prefix, show_progress)
            os.replace(part, path)
        return path
    except (LocalEntryNotFoundError, HfHubHTTPError, URLError, OSError, RuntimeError) as error:
        raise_if_unwritable(error, "HF_HOME" if publication.hub_repository else "TORCH_HOME")
        reason = str(error).partition("\n")[0]
        raise DownloadError(
            f"could not fetch the weights of {preset.name} from {publication.address} ({reason}). Without a network, "
            f"download that file elsewhere and give its path instead of the name"
        ) from error


def raise_if_unwritable(error: Exception, variable: str) -> None:
    """Raises a WriteError if a download failed because its cache cannot be written.

    Args:
        error: of the download.
        variable: of the environment, which says where the cache is.
    """
    if isinstance(error, OSError) and error.errno in _UNWRITABLE:
        raise WriteError(
            f"{error.filename or 'the cache of downloads'}: cannot be written: {error.strerror}: free space there, or "
            f"set {variable} to a folder that can be written"
        ) from error


def _torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
