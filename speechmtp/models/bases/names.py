"""How help texts speak of the models that are taken, whatever kinds there are; nothing is loaded for it."""

SPEECH_MODEL = "model folder, ours or as transformers has it, hub name (owner/model), or embedded model (default, an4)"
MODEL = f"{SPEECH_MODEL}; a text LM of transformers too"
ENCODER_DECODER_MODEL = "folder or hub name of an encoder-decoder recogniser"
