"""Codec folders: `config.yaml` and `model.safetensors`."""

from importlib import resources
from pathlib import Path

from safetensors.torch import save_file

from speechmtp.codec.unit25 import Unit25Codec, Unit25Config
from speechmtp.config import from_dict, read_yaml, write_yaml
from speechmtp.errors import CheckpointError
from speechmtp.models.storage import Storage, load_state, pack, read_weights, unpack, without_random_weights

CONFIG, WEIGHTS, CARD = "config.yaml", "model.safetensors", "card.md"


def default_codec() -> Path:
    """The folder of the codec of the voice `heart`, which is installed with the package."""
    return Path(str(resources.files("speechmtp"))) / "assets" / "models" / "heart" / "codec"


def load_codec(folder: Path) -> Unit25Codec:
    """The codec of a folder, ready to decode. CheckpointError for files that are missing or do not fit together,
    ConfigError for wrong values."""
    if not (folder / CONFIG).is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}, a codec folder is expected; give the folder that training wrote")
    config = from_dict(Unit25Config, read_yaml(folder / CONFIG), where=str(folder / CONFIG))
    state = unpack(read_weights(folder / WEIGHTS))
    with without_random_weights():
        codec = Unit25Codec(config)
    load_state(codec, state, folder / WEIGHTS, adopt=True)
    return codec.eval()


def save_codec(codec: Unit25Codec, folder: Path, card: str, storage: Storage = "int8") -> None:
    """Write a codec folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / CONFIG, codec.config)
    save_file(pack(codec.state_dict(), storage), folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
