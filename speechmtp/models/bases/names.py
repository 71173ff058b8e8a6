"""How help texts name the models that are taken: those of `table.py`, but without loading anything."""

_REST = "its hub name (owner/model), or an embedded model (default, an4)"
SPEECH_MODEL = f"folder of ours, of Moonshine, of Whisper or of Qwen2-Audio, {_REST}"
MODEL = f"folder of ours, of Moonshine, of Whisper, of Qwen2-Audio or of a text LM of transformers, {_REST}"
MEMORY_MODEL = "folder of Moonshine or Whisper, or its hub name"
