"""Where a model is: a folder, a model inside the package, or one of the hub. Imports nothing heavy."""

from importlib import resources
from pathlib import Path

from speechmtp.errors import CheckpointError
from speechmtp.models.files import check_files

OTHER_FORMATS = ["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.pt"]  # the same weights in other formats
PICKLED = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]  # weights of old models that have no others
EMBEDDED = ("default", "an4")  # recognisers inside the package
VOICES = ("heart",)  # voices inside the package


def locate(name: str) -> Path:
    """Return the folder of a model, given by path, name of an embedded model, or hub name such as `owner/model`.

    CheckpointError if there is none, if the hub cannot be reached, or if a file is empty or a pointer of Git LFS.
    """
    folder = _folder(name)
    check_files(folder)
    return folder


def _folder(name: str) -> Path:
    if Path(name).is_dir():
        return Path(name)
    if name in (*EMBEDDED, *VOICES):
        folder = Path(str(resources.files("speechmtp"))) / "assets" / "models" / name
        if folder.is_dir():
            return folder
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _download(name)
    raise CheckpointError(
        f"{name}: no such model folder; give a folder, a hub name (owner/model) or one of "
        f"{', '.join((*EMBEDDED, *VOICES))}"
    )


def _download(name: str) -> Path:
    """Return the folder of a Hugging Face hub model, downloaded unless it is in the local cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, ignore_patterns=OTHER_FORMATS))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns=PICKLED)
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{name}: neither a folder nor to be had from the hub ({reason})") from error
