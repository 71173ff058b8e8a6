"""The structs of the native library (`csrc/*.h`) and the tensors that they point to."""

import ctypes
from ctypes import POINTER, Structure, c_float, c_int32, c_int64, c_void_p
from typing import Any

import torch
from torch import Tensor

from speechmtp.kernels.cpu.int8_linear import quantise

FLOAT32, FLOAT16, INT8 = 0, 1, 2
NORMS = {"none": 0, "layer": 1, "rms": 2}
ACTIVATIONS = {"gelu": 0, "gated_silu": 1}


class Linear(Structure):
    """A linear layer on packed weights."""

    _fields_ = (
        ("kind", c_int32), ("inputs", c_int32), ("outputs", c_int32), ("panels", c_void_p), ("scale", c_void_p),
        ("bias", c_void_p),
    )  # fmt: skip


class Norm(Structure):
    """A layer norm or an RMS norm."""

    _fields_ = (("kind", c_int32), ("size", c_int32), ("weight", c_void_p), ("bias", c_void_p), ("eps", c_float))


class Attention(Structure):
    """An attention behind its norm."""

    _fields_ = (
        ("norm", Norm), ("query_norm", Norm), ("key_norm", Norm), ("joined", Linear), ("out", Linear),
        ("memory", Linear), ("heads", c_int32), ("kv_heads", c_int32), ("dim", c_int32), ("turned", c_int32),
        ("neighbours", c_int32), ("scale", c_float),
    )  # fmt: skip


class Layer(Structure):
    """A decoder layer; `cross.heads` is 0 without cross-attention."""

    _fields_ = (
        ("self_", Attention), ("cross", Attention), ("norm", Norm), ("inner", Linear), ("outer", Linear),
        ("activation", c_int32),
    )  # fmt: skip


class Rotary(Structure):
    """Cosines and sines [positions, turned / 2]."""

    _fields_ = (("cosines", c_void_p), ("sines", c_void_p), ("positions", c_int64))


class Slots(Structure):
    """Keys and values of a layer from the first row of a call on; strides in floats."""

    _fields_ = (("keys", c_void_p), ("values", c_void_p), ("row", c_int64), ("head", c_int64))


class Entries(Structure):
    """The entries of a call."""

    _fields_ = (
        ("rows", c_int64), ("queries", c_int64), ("positions", c_void_p), ("lengths", c_void_p),
        ("memory_lengths", c_void_p), ("ancestors", c_void_p), ("last", c_void_p), ("counts", c_void_p),
    )  # fmt: skip


class Decoder(Structure):
    """All layers and the norm behind them."""

    _fields_ = (("width", c_int32), ("count", c_int32), ("layers", POINTER(Layer)), ("norm", Norm), ("rotary", Rotary))


class Chain(Structure):
    """Chained heads with one shared layer."""

    _fields_ = (
        ("width", c_int32), ("embedding_first", c_int32), ("embedding_norm", Norm), ("hidden_norm", Norm),
        ("norm", Norm), ("join", Linear), ("layer", Layer), ("unembedding", Linear), ("shortlist", c_void_p),
        ("embeddings", c_void_p), ("rotary", Rotary),
    )  # fmt: skip


class Fresh(Structure):
    """What a draft of chained heads starts from."""

    _fields_ = (
        ("rows", c_int64), ("entries", c_int64), ("depth", c_int64), ("hidden", c_void_p), ("nexts", c_void_p),
        ("positions", c_void_p), ("counts", c_void_p), ("lengths", c_void_p), ("memory_lengths", c_void_p),
        ("base", c_void_p), ("ahead", c_void_p), ("hints", c_void_p), ("noise", c_void_p), ("tokens", c_int64),
        ("top", c_int64), ("temperature", c_float), ("theta", c_float), ("product", c_int32),
    )  # fmt: skip


class Reader(Structure):
    """The layers that heads read besides the last one."""

    _fields_ = (("width", c_int32), ("count", c_int32), ("norms", POINTER(Norm)), ("mix", Linear))


class Screen(Structure):
    """The weights of a linear layer as 8-bit integers that bound its outputs."""

    _fields_ = (
        ("panels", c_void_p), ("scale", c_void_p), ("offset", c_void_p), ("sizes", c_void_p), ("errors", c_void_p),
    )  # fmt: skip


class Builder:
    """Makes structs of tensors, and keeps what they point to in `kept`."""

    def __init__(self, panel: int) -> None:
        self.panel = panel
        self.kept: list[Any] = []

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Return the address of a tensor's numbers as contiguous float32; None for None."""
        if tensor is None:
            return None
        return self.hold(tensor.detach().to(torch.float32).contiguous())

    def hold(self, tensor: Tensor) -> int:
        """Keep a contiguous tensor and return its address."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def linear(self, weight: Tensor, bias: Tensor | None = None, rounded: bool = False) -> Linear:
        """Return a layer with weights [out, in] and a bias [out].

        Weights are stored in the smallest form that gives them exactly: float16, 8-bit integers with a scale per
        row (to the last bit of float32), or float32; if `rounded`, in 8 bits in any case.
        """
        weight = weight.detach()
        panels = None if rounded else self._panels(weight, torch.float16)
        if panels is not None:
            return self._layer(FLOAT16, weight, panels, None, bias)
        integers, scale = quantise(weight)
        if rounded or torch.equal(integers * scale[:, None], weight):
            return self.integers(integers, scale, bias)
        panels = self._panels(weight, torch.float32)
        assert panels is not None
        return self._layer(FLOAT32, weight, panels, None, bias)

    def integers(self, integers: Tensor, scale: Tensor, bias: Tensor | None = None) -> Linear:
        """Return a layer whose weights are integers [out, in] times the scale [out] of their row."""
        panels = self._panels(integers, torch.int8)
        assert panels is not None
        return self._layer(INT8, integers, panels, scale, bias)

    def _layer(self, kind: int, weight: Tensor, panels: Tensor, scale: Tensor | None, bias: Tensor | None) -> Linear:
        outputs, inputs = weight.shape
        rows = (0, -outputs % self.panel)
        scales = None if scale is None else torch.nn.functional.pad(scale, rows)
        biases = None if bias is None else torch.nn.functional.pad(bias.detach().float(), rows)
        return Linear(kind, inputs, outputs, self.hold(panels), self.pointer(scales), self.pointer(biases))

    def _panels(self, weight: Tensor, dtype: torch.dtype) -> Tensor | None:
        """Return weights [out, in] as panels [out / panel, in, panel], rows of zeros behind them; None if `dtype` does
        not give them exactly. A few panels at a time, which stay in the processor's cache."""
        outputs, inputs = weight.shape
        made = torch.empty(-(-outputs // self.panel), inputs, self.panel, dtype=dtype)
        step = 32 * self.panel
        for first in range(0, outputs, step):
            block = weight[first : first + step]
            stored = block.to(dtype)
            if dtype != weight.dtype and not torch.equal(stored.to(weight.dtype), block):
                return None
            room = -len(stored) % self.panel
            stored = torch.nn.functional.pad(stored, (0, 0, 0, room)) if room else stored
            place = first // self.panel
            panels = stored.reshape(-1, self.panel, inputs)
            made[place : place + len(panels)] = panels.transpose(1, 2)
        return made

    def screen(self, weight: Tensor) -> Screen:
        """Return the screen of weights [out, in]."""
        weight = weight.detach()
        outputs, inputs = weight.shape
        integers, scale = quantise(weight)
        errors = (weight - integers * scale[:, None]).abs().amax(1)
        offset = 64 * integers.sum(1, dtype=torch.long)
        room, more = -outputs % self.panel, -inputs % 4
        padded = torch.nn.functional.pad(integers, (0, more, 0, room))
        panels = padded.view(-1, self.panel, (inputs + more) // 4, 4).transpose(1, 2).contiguous()
        # Of padding the scale is 1 and the offset large: its bounds are below those of any token.
        low = [torch.nn.functional.pad(x.float(), (0, room), value=v) for x, v in ((scale, 1.0), (offset, 1e30))]
        rest = [torch.nn.functional.pad(x, (0, room)) for x in (weight.abs().sum(1), errors)]
        return Screen(self.hold(panels), *map(self.pointer, (*low, *rest)))

    def norm(self, kind: str, size: int, weight: Tensor | None = None, bias: Tensor | None = None,
             eps: float = 0.0) -> Norm:  # fmt: skip
        """Return a norm of `kind` (`none`, `layer`, `rms`) over `size` numbers."""
        return Norm(NORMS[kind], size, self.pointer(weight), self.pointer(bias), eps)


def bind(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declare the argument types of the library's functions."""
    p, n = c_void_p, c_int64
    library.speechmtp_cpu_extend.argtypes = [p, p, p, p, p, p, p, c_int32, p, p]
    library.speechmtp_cpu_extend_work.argtypes = [p, n, n]
    library.speechmtp_cpu_extend_work.restype = n
    library.speechmtp_cpu_linear.argtypes = [p, p, n, p]
    library.speechmtp_cpu_linear.restype = None
    library.speechmtp_cpu_remember.argtypes = [p, p, n, n, p, p, p, p]
    library.speechmtp_cpu_remember.restype = None
    library.speechmtp_cpu_remember_work.argtypes = [p]
    library.speechmtp_cpu_remember_work.restype = n
    library.speechmtp_cpu_choose.argtypes = [p, p, p, n, n, p, p, n, p, p]
    library.speechmtp_cpu_choose.restype = None
    library.speechmtp_cpu_choose_work.argtypes = [p, n]
    library.speechmtp_cpu_choose_work.restype = n
    library.speechmtp_cpu_fuse.argtypes = [p, n, n, n, p, n, p, p, p, p, p]
    library.speechmtp_cpu_fuse.restype = None
    library.speechmtp_cpu_chain.argtypes = [p, p, p, p, p, p, p]
    library.speechmtp_cpu_chain.restype = n
    library.speechmtp_cpu_chain_work.argtypes = [p, n, n, n]
    library.speechmtp_cpu_chain_work.restype = n
    return library
