"""Published checkpoints: fetched once from where their publisher put them, when the user names one."""

import sys
from pathlib import Path
from urllib.error import URLError

import huggingface_hub
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from yolact.config import Preset

_ASSETS = Path(__file__).parent.parent / "assets"


class DownloadError(OSError):
    """A published checkpoint that could not be fetched; the message has its address and the way around."""


def cached_file(preset: Preset) -> Path | None:
    """The preset's published checkpoint on this machine, or None where it has not been fetched."""
    publication = preset.publication
    if publication.bundled:
        return _ASSETS / publication.file
    if publication.hub_repository:
        found = huggingface_hub.try_to_load_from_cache(publication.hub_repository, publication.file)
        return Path(found) if isinstance(found, str) else None
    path = _torch_cache() / publication.file
    return path if publication.file and path.is_file() else None


def fetch(preset: Preset) -> Path:
    """The preset's published checkpoint, downloaded unless cached; with a progress bar on a terminal.

    Raises:
        ValueError: if none is published.
        DownloadError: if it could not be fetched.
    """
    publication = preset.publication
    if (cached := cached_file(preset)) is not None:
        return cached
    if not publication.address:
        raise ValueError(f"no weights of {preset.name} are published: give the path of a checkpoint file of your own")
    show_progress = sys.stderr.isatty()
    try:
        if publication.hub_repository:
            if not show_progress:
                huggingface_hub.utils.disable_progress_bars()
            return Path(huggingface_hub.hf_hub_download(publication.hub_repository, publication.file))
        path = _torch_cache() / publication.file
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(publication.url, str(path), publication.sha256_prefix, show_progress)
        return path
    except (LocalEntryNotFoundError, HfHubHTTPError, URLError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DownloadError(
            f"could not fetch the weights of {preset.name} from {publication.address} ({reason}). Without a network, "
            f"fetch that file elsewhere and give its path in place of the name"
        ) from error


def _torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
