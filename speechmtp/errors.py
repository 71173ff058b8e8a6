"""The exception tree. A message is one line that names the object, the place and the fix."""


class SpeechMTPError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback."""


class ConfigError(SpeechMTPError):
    """A wrong option, key or value of a configuration."""


class DataError(SpeechMTPError):
    """A defect of audio, transcripts or data directories; names file and line where possible."""


class ShapeError(SpeechMTPError):
    """Tensors whose shapes do not fit together."""


class CheckpointError(SpeechMTPError):
    """A model folder or training state that cannot be used."""


class ProtocolError(SpeechMTPError):
    """A peer that breaks the wire protocol."""


class KernelError(SpeechMTPError):
    """A kernel that is missing or rejects its input."""
