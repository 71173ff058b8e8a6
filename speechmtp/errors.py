"""The exception tree, and the warnings. A message is one line that names the object, the place and the fix."""


class SpeechMTPError(Exception):
    """Base of every error that a user can cause; the command line prints it without a traceback."""


class ConfigError(SpeechMTPError):
    """A wrong option, key or value of a configuration."""


class DataError(SpeechMTPError):
    """A defect of audio, transcripts or data directories; names file and line where possible."""


class UnreadableError(DataError):
    """Audio that nothing installed can decode."""


class SpeechMTPWarning(UserWarning):
    """Base of warnings about a user's input; the command line prints one as a line."""


class SettingsWarning(SpeechMTPWarning):
    """Settings of a model folder that decoding does not follow."""


class AudioWarning(SpeechMTPWarning):
    """Audio that was heard in another way than usual; the command line prints it as one line."""


class KernelWarning(SpeechMTPWarning):
    """Kernels that run otherwise than usual, such as on PyTorch for want of a compiler: slower, and the same text."""


class ShapeError(SpeechMTPError):
    """Tensors whose shapes do not fit together."""


class CheckpointError(SpeechMTPError):
    """A model folder or training state that cannot be used."""


class StaleHeadsError(CheckpointError):
    """Draft heads that were trained on another model than the one they are loaded for; `problem` is the message
    without the argument that lets them through."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}, or let them through with allow_stale_heads=True")
        self.problem = problem


class ProtocolError(SpeechMTPError):
    """A peer that breaks the wire protocol."""


class KernelError(SpeechMTPError):
    """A kernel that is missing or rejects its input."""
