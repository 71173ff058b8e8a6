"""Speech or not: the Silero network, which says how likely each 32 ms of audio are speech.

Frame i covers samples [512 i, 512 (i + 1)) at 16 kHz. The network sees a frame behind the last 64 samples before it, as
four spectra; four convolutions make one vector of them, and an LSTM carries what was heard from frame to frame.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from speechmtp.errors import ShapeError

RATE = 16000
FRAME = 512  # samples
FRAMES_PER_SECOND = RATE / FRAME
CONTEXT = 64  # samples before a frame
WINDOW, HOP = 256, 128  # samples of a spectrum, and between spectra
SPECTRA = FRAME // HOP
BINS, WIDTH, NARROW = WINDOW // 2 + 1, 128, 64
WEIGHTS = Path(__file__).resolve().parents[1] / "assets" / "activity" / "model.safetensors"


@dataclass(frozen=True)
class ActivityState:
    """What was heard so far: the last samples `context` [B, 64], and `hidden` and `cell` [B, 128] of the LSTM."""

    context: Tensor
    hidden: Tensor
    cell: Tensor


class ActivityModel(nn.Module):
    """The network; `load_activity` gives it with its weights. It keeps nothing between calls."""

    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(BINS, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv1d(WIDTH, NARROW, 3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(NARROW, NARROW, 2)  # two vectors are left of four spectra, then one
        self.conv4 = nn.Conv1d(NARROW, WIDTH, 1)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.output = nn.Linear(WIDTH, 1)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def start(self, rows: int) -> ActivityState:
        """The state before the first sample."""
        zeros = self.window.new_zeros
        return ActivityState(zeros(rows, CONTEXT), zeros(rows, WIDTH), zeros(rows, WIDTH))

    @torch.no_grad()
    def forward(self, samples: Tensor, state: ActivityState) -> tuple[Tensor, ActivityState]:
        """Probabilities [B, T] of speech in samples [B, T * 512] at 16 kHz that follow those of `state`, and the state
        after them. ShapeError for samples that are no whole frames or no rows of the state."""
        rows = len(state.context)
        if samples.ndim != 2 or len(samples) != rows or samples.shape[1] % FRAME:
            raise ShapeError(
                f"activity: samples of shape {list(samples.shape)}, expected [{rows}, T * {FRAME}]; give whole frames"
            )
        if samples.shape[1] == 0:
            return samples.new_zeros(rows, 0), state
        heard = torch.cat([state.context, samples], 1)
        vectors = self._encode(heard.unfold(1, CONTEXT + FRAME, FRAME))
        states, (hidden, cell) = self.lstm(vectors, (state.hidden[None], state.cell[None]))
        probabilities = self.output(states.relu()).sigmoid()[..., 0]
        return probabilities, ActivityState(heard[:, -CONTEXT:].clone(), hidden[0], cell[0])

    def _encode(self, frames: Tensor) -> Tensor:
        """Vectors [B, T, 128] of frames with the samples before them [B, T, 576]."""
        mirrored = frames[..., -CONTEXT - 1 : -1].flip(-1)
        pieces = torch.cat([frames, mirrored], -1).unfold(-1, WINDOW, HOP)
        spectra = torch.fft.rfft(pieces * self.window).abs().flatten(0, 1).transpose(1, 2)
        vectors = spectra
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            vectors = convolution(vectors).relu()
        return vectors.view(*frames.shape[:2], WIDTH)

    def stream(self) -> "ActivityStream":
        """A stream over one recording, frame by frame."""
        return ActivityStream(self)

    @cached_property
    def frame_weights(self) -> "FrameWeights":
        """The weights as a stream multiplies them; made once."""
        with torch.no_grad():
            return FrameWeights.of(self)


@dataclass(frozen=True)
class FrameWeights:
    """Weights of single frames: matrices of the convolutions as flat taps, and the LSTM's gates in the order input,
    forget, output, candidate. The first three are halved, as sigmoid(x) = (1 + tanh(x / 2)) / 2."""

    window: np.ndarray  # [256]
    conv1: tuple[Tensor, Tensor]  # bias [128], taps [387, 128]
    conv2: tuple[Tensor, Tensor]  # bias [64], taps [384, 64]
    conv3: tuple[Tensor, Tensor]  # bias [64], taps [64, 128]
    conv4: tuple[Tensor, Tensor]  # bias [128], taps [128, 64]
    gates: tuple[Tensor, Tensor]  # bias [512], of input and hidden state [512, 256]
    output: np.ndarray  # [128]
    bias: float

    @classmethod
    def of(cls, model: ActivityModel) -> "FrameWeights":
        """Of a model on the CPU."""
        order = torch.tensor([0, 1, 3, 2])  # of the gates
        halves = torch.tensor([0.5, 0.5, 0.5, 1.0])
        of = model.state_dict()
        joint = torch.cat([of["lstm.weight_ih_l0"], of["lstm.weight_hh_l0"]], 1).view(4, WIDTH, 2 * WIDTH)[order]
        bias = (of["lstm.bias_ih_l0"] + of["lstm.bias_hh_l0"]).view(4, WIDTH)[order]
        taps = [of[f"conv{number}.weight"].permute(2, 1, 0).flatten(0, 1) for number in range(1, 5)]
        return cls(
            model.window.numpy(),
            (of["conv1.bias"], taps[0].contiguous()),
            (of["conv2.bias"], taps[1].contiguous()),
            (of["conv3.bias"], taps[2].t().contiguous()),
            (of["conv4.bias"], taps[3].t().contiguous()),
            ((bias * halves[:, None]).flatten(), (joint * halves[:, None, None]).flatten(0, 1)),
            of["output.weight"][0].numpy(),
            float(of["output.bias"]),
        )


class ActivityStream:
    """Probabilities of one recording whose samples arrive in pieces of any size. Each frame is computed alone, so that
    they do not depend on the pieces."""

    def __init__(self, model: ActivityModel) -> None:
        self._weights = model.frame_weights
        self._waiting = np.zeros(0, np.float32)
        # Working memory with rows of padding, and views of it: what one product reads, the one before has written.
        self._samples = np.zeros(CONTEXT + FRAME + CONTEXT, np.float32)
        self._pieces = np.lib.stride_tricks.sliding_window_view(self._samples, WINDOW)[::HOP]
        spectra = torch.zeros(SPECTRA + 2, BINS)
        self._magnitudes = spectra[1:-1].numpy()
        self._triples1 = spectra.as_strided((SPECTRA, 3 * BINS), (BINS, 1))
        vectors = torch.zeros(SPECTRA + 1, WIDTH)
        self._vectors = vectors[1:]
        self._triples2 = vectors.as_strided((SPECTRA // 2, 3 * WIDTH), (2 * WIDTH, 1))
        self._joint = torch.zeros(2 * WIDTH)  # the LSTM's input, then its hidden state
        self._input, self._hidden = self._joint[:WIDTH], self._joint[WIDTH:].numpy()
        self._cell = np.zeros(WIDTH, np.float32)
        self._gates = torch.zeros(4 * WIDTH)
        self._gate_values = self._gates.numpy()
        self._sigmoids = self._gate_values[: 3 * WIDTH]
        self._each_gate = tuple(self._gate_values.reshape(4, WIDTH))

    def push(self, samples: np.ndarray) -> list[float]:
        """Probabilities of the frames that samples [n], float32 at 16 kHz, complete. ShapeError for several
        channels."""
        if samples.ndim != 1:
            raise ShapeError(f"activity: samples of shape {samples.shape}, expected [n]; give one channel")
        waiting = np.concatenate([self._waiting, samples]) if len(self._waiting) else samples
        whole = len(waiting) // FRAME * FRAME
        self._waiting = waiting[whole:].astype(np.float32)
        return [self._frame(waiting[start : start + FRAME]) for start in range(0, whole, FRAME)]

    def _frame(self, frame: np.ndarray) -> float:
        """The probability of one frame [512]."""
        weights, samples, vectors = self._weights, self._samples, self._vectors
        samples[:CONTEXT] = samples[FRAME : FRAME + CONTEXT]
        samples[CONTEXT : CONTEXT + FRAME] = frame
        samples[CONTEXT + FRAME :] = samples[CONTEXT + FRAME - 2 : FRAME - 2 : -1]
        spectra = torch.fft.rfft(torch.from_numpy(self._pieces * weights.window))
        np.abs(spectra.numpy(), out=self._magnitudes)
        bias, taps = weights.conv1
        torch.addmm(bias, self._triples1, taps, out=vectors).relu_()
        bias, taps = weights.conv2
        two = torch.addmm(bias, self._triples2, taps).relu_().view(-1)
        bias, taps = weights.conv3
        one = torch.addmv(bias, taps, two).relu_()
        bias, taps = weights.conv4
        torch.addmv(bias, taps, one, out=self._input).relu_()
        bias, taps = weights.gates
        torch.addmv(bias, taps, self._joint, out=self._gates)
        np.tanh(self._gate_values, out=self._gate_values)
        self._sigmoids += 1
        self._sigmoids *= 0.5
        keep_new, keep_old, show, new = self._each_gate
        cell, hidden = self._cell, self._hidden
        cell *= keep_old
        new *= keep_new
        cell += new
        np.tanh(cell, out=hidden)
        hidden *= show
        logit = float(np.dot(np.maximum(hidden, 0), weights.output)) + weights.bias
        return 1 / (1 + math.exp(-logit))


@cache
def load_activity() -> ActivityModel:
    """The network with its weights, on the CPU; one for all threads of a process."""
    from safetensors.torch import load_file

    model = ActivityModel()
    model.load_state_dict(load_file(WEIGHTS))
    return model.requires_grad_(False).eval()
