"""The exception tree: one clear line that names the thing, the place and the mend."""


class SpeechMTPError(Exception):
    """Base of every error a user can cause; the command line prints it without a traceback."""


class ConfigError(SpeechMTPError):
    """A wrong option, key or value of a configuration."""


class DataError(SpeechMTPError):
    """A defect of audio, transcripts or data directories; names file and line where it can."""


class ShapeError(SpeechMTPError):
    """Tensors whose shapes do not fit together."""


class CheckpointError(SpeechMTPError):
    """A model folder or training state that cannot be used."""


class ProtocolError(SpeechMTPError):
    """A peer that breaks the wire protocol."""


class KernelError(SpeechMTPError):
    """A kernel that is missing or refuses its input."""
