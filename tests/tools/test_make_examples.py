"""The tool that makes the spoken examples: the excerpt keeps its samples, the folders say what they hold."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

import speechmtp
from speechmtp.data.kaldi import read_data_dir

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = Path(speechmtp.__file__).parent / "assets" / "examples"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """tools/make_examples.py as a module."""
    spec = importlib.util.spec_from_file_location("make_examples", ROOT / "tools" / "make_examples.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_excerpt_has_the_samples_of_its_recording(tool: ModuleType, tmp_path: Path) -> None:
    name, utterance, (start, end), words = tool.READING
    whole = np.random.default_rng(0).integers(-3000, 3000, 16000 * 13).astype(np.int16)
    (tmp_path / "audio" / "446").mkdir(parents=True)
    soundfile.write(tmp_path / "audio" / "446" / f"{utterance}.flac", whole, 16000)
    tool.excerpt(tmp_path / "speech", tmp_path / "audio")
    found, rate = soundfile.read(tmp_path / "speech" / f"{name}.flac", dtype="int16")
    assert rate == 16000
    assert np.array_equal(found, whole[round(start * 16000) : round(end * 16000)])
    data = read_data_dir(tmp_path / "speech", tmp_path / "speech")
    assert (list(data), data[name].text, data[name].speaker) == ([name], words, "446")


def test_the_tables_of_the_package_are_those_that_the_tool_writes(tool: ModuleType, tmp_path: Path) -> None:
    spelled = [(name, name, words) for name, words, *_ in sorted(tool.EXAMPLES)]
    tool.write_set(tmp_path, spelled, {"fs": tool.RATE, "source": "espeak-ng", "licence": "Apache-2.0"})
    for table in ("wav.scp", "text", "utt2spk", "spk2utt", "info.json"):
        assert (tmp_path / table).read_text() == (EXAMPLES / table).read_text(), table
    info = json.loads((EXAMPLES / "speech" / "info.json").read_text())
    assert info == {"fs": tool.RATE, "source": tool.CREDIT, "licence": "CC BY 4.0"}
