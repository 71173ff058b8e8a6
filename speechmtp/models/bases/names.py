"""Descriptions of the accepted models for help texts; importing this file loads no model code."""

SPEECH_MODEL = "model folder, ours or as transformers has it, hub name (owner/model), or embedded model (default, an4)"
MODEL = f"{SPEECH_MODEL}; a text LM of transformers too"
ENCODER_DECODER_MODEL = "folder or hub name of an encoder-decoder recogniser"
