"""How much memory does a training step of the heads need, against all logits of all depths at once?

Each configuration runs in a process of its own: trunk forward, heads, their loss and the backward pass, heads and
trunk trained, the trunk's own loss left out, since both forms have it alike. On a CPU the peak is the growth of peak
resident memory over the state before the step, with an allocator that gives large blocks back at once (glibc keeps
blocks up to 32 MB otherwise, which `--keep-blocks` leaves as it is); where the kernel cannot reset that peak,
it is the growth of the process's all-time peak, a lower bound. Seconds are processor time on a CPU. On CUDA the peak is
the allocator's, and seconds are those of the clock.

The joint form is written out below: the features of all depths, their logits [B, A, D, V] in one tensor, one
cross-entropy over them. Each line is compared with the joint form of the same heads, `joint` (whose own would need
its rank times as much) with that of `latent`; losses are compared with those of the same heads, in float32.

    python benchmarks/head_memory.py
    python benchmarks/head_memory.py --device cuda --width 1024 --rows 16 --length 128
"""

import argparse
import ctypes
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from speechmtp.heads.block import BlockHeadsConfig
from speechmtp.heads.chain import ChainHeadsConfig
from speechmtp.heads.contract import HeadSet, TrainBatch
from speechmtp.heads.joint import JointHeadsConfig
from speechmtp.heads.labels import IGNORED, shifted_labels
from speechmtp.heads.latent import LatentHeadsConfig
from speechmtp.heads.layer import LayerHeadsConfig
from speechmtp.heads.residual import ResidualHeadsConfig
from speechmtp.heads.table import HeadsConfig, build_heads
from speechmtp.models.trunk import ScratchTrunkConfig, Trunk, build_trunk
from speechmtp.scoring.tables import render_markdown
from speechmtp.training.losses import MultiTokenConfig, depth_weights
from speechmtp.training.multi_token import Sequences, anchors_of, multi_token_loss

MB = 2**20
RETURN_BLOCKS = {"MALLOC_MMAP_THRESHOLD_": str(MB)}  # read by glibc when a process starts
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Case:
    """One line of the table; `chunk` rows of logits at a time, None for the joint form, 0 for no chunks."""

    heads: HeadsConfig
    name: str
    chunk: int | None
    alike: str  # the line of the joint form that it is compared with


def cases(depth: int, chunk: int) -> list[Case]:
    """The lines, each family's joint form first."""
    found = []
    latent, residual, layer = LatentHeadsConfig(depth), ResidualHeadsConfig(depth), LayerHeadsConfig(depth)
    chain, block = ChainHeadsConfig(depth), BlockHeadsConfig(depth)
    for config in (latent, residual, layer):
        found += [Case(config, config.kind, None, config.kind)]
        if config is latent:
            found += [Case(config, "latent, one depth at a time, no chunks", 0, "latent")]
        found += [Case(config, f"{config.kind}, one depth at a time", chunk, config.kind)]
    plain = replace(chain, checkpoint=False)
    found += [
        Case(plain, "chain", None, "chain"), Case(plain, "chain, no checkpoint", chunk, "chain"),
        Case(chain, "chain, checkpoint", chunk, "chain"),
    ]  # fmt: skip
    found += [Case(replace(block, chunk=1 << 20), "block", None, "block")]
    for anchors in (16, 64, 1 << 20):
        name = "all anchors" if anchors == 1 << 20 else f"{anchors} anchors at a time"
        found += [Case(replace(block, chunk=anchors), f"block, {name}", chunk, "block")]
    joint = JointHeadsConfig(depth, rank=2, balance=0.0)
    return [*found, Case(joint, "joint, rank 2", chunk, "latent")]


def joint_form(trunk: Trunk, heads: HeadSet, rows: Sequences, config: MultiTokenConfig) -> Tensor:
    """The loss of the heads with all D V logits of every anchor in memory at once."""
    states = trunk(rows.embeddings, rows.positions, rows.segments, heads.taps)
    labels = shifted_labels(rows.ids, rows.segments, heads.depth, None, rows.starts)
    batch = TrainBatch(
        states, rows.embeddings, rows.ids, rows.positions, rows.segments, trunk.embed, heads.narrow(trunk),
        anchors=anchors_of(labels[..., 1:]),
    )  # fmt: skip
    logits = heads.all_logits(torch.stack(list(heads.train_depths(batch)), 2), batch.unembed)  # [B, A, D, V]
    asked = batch.at_anchors(labels)[..., 1:]
    losses = F.cross_entropy(logits.flatten(0, 2), asked.flatten(), reduction="none", ignore_index=IGNORED)
    means = losses.view_as(asked).sum((0, 1)) / (asked != IGNORED).sum((0, 1))
    weights = torch.tensor(depth_weights(config, heads.depth)[1:], device=means.device)
    return (means * weights).sum() * (labels[..., 0] != IGNORED).sum()


class Bench:
    """Trunk, heads and a batch of one case."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        self.device, self.case = torch.device(options.device), case
        torch.manual_seed(options.seed)
        width, vocab = options.width, options.vocab
        shape = ScratchTrunkConfig(width=width, layers=options.layers, heads=width // 64, ff_width=3 * width)
        self.trunk = build_trunk(shape, vocab).to(self.device).train()
        self.heads = build_heads(case.heads, self.trunk.shape).to(self.device).train()
        self.heads.start_from(self.trunk)
        with torch.no_grad():
            for weight in self.heads.parameters():  # depths that differ
                weight.add_(torch.randn_like(weight), alpha=0.02)
        self.ids = torch.randint(vocab, (options.rows, options.length), device=self.device)
        base = MultiTokenConfig(base=0.0, scale=1.0)
        self.config = replace(base, chunk=case.chunk) if case.chunk else replace(base, chunk=1 << 30)

    def loss(self, ids: Tensor, joint: bool) -> Tensor:
        """The heads' loss of tokens [B, L] in either form."""
        places = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        here = torch.zeros_like(ids)
        rows = Sequences(self.trunk.embed(ids), places, ids, here, torch.ones_like(ids, dtype=torch.bool))
        if joint:
            return joint_form(self.trunk, self.heads, rows, self.config)
        return multi_token_loss(self.trunk, self.heads, rows, self.config)[0]

    def step(self, ids: Tensor) -> float:
        """Forward and backward; the loss."""
        loss = self.loss(ids, self.case.chunk is None)
        loss.backward()
        return float(loss.detach())

    def run(self) -> dict[str, float]:
        """Megabytes and seconds of a step behind a short one, which loads what is loaded once, and its loss."""
        self.step(self.ids[:1, :16])
        self.trunk.zero_grad(set_to_none=True)
        self.heads.zero_grad(set_to_none=True)
        memory = Memory(self.device)
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        start = clock()
        loss = self.step(self.ids)
        found = {"mb": memory.peak(), "s": clock() - start, "loss": loss}
        if self.heads.config.kind == "joint":  # no line of its own has this loss
            with torch.no_grad():
                found["joint_form"] = float(self.loss(self.ids, True))
        return found


class Memory:
    """Growth of peak memory since it was made."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            self.before: float = torch.cuda.memory_allocated(device)
            return
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # what is free but kept would hide growth
        self.resets = resets()
        self.before = status("VmRSS") if self.resets else all_time_peak()

    def peak(self) -> float:
        """Megabytes."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return (torch.cuda.max_memory_allocated(self.device) - self.before) / MB
        return ((status("VmHWM") if self.resets else all_time_peak()) - self.before) / MB


def resets() -> bool:
    """Set this process's peak resident memory back to what it has now, where the kernel can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def status(name: str) -> float:
    """Bytes of a line of /proc/self/status."""
    found = re.search(rf"^{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return float(found[1]) * 1024 if found else float("nan")


def all_time_peak() -> float:
    """Bytes of resident memory at most so far."""
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def work(case: Case, options: argparse.Namespace, answer: Connection) -> None:
    """Run a case in this process."""
    torch.set_num_threads(options.threads)
    answer.send(Bench(case, options).run())


def alone(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """Run a case in a fresh process; nothing if it died, as it does where memory runs out."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["speechmtp.heads.table", "speechmtp.training.multi_token"])  # imported once
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(case, options, send))
    process.start()
    send.close()
    try:
        found: dict[str, float] = receive.recv()
    except EOFError:
        found = {}
    process.join()
    return found


def line(case: Case, found: dict[str, float], joint: dict[str, float]) -> dict[str, Any]:
    """A row of the table."""
    shown = {"heads": case.name, "MB": "", "of joint": "", "s": "", "of joint's s": "", "loss": "", "difference": ""}
    if case.chunk is None:
        shown["heads"] += ", joint form"
    if not found:
        return shown | {"MB": "died"}
    shown |= {"MB": f"{found['mb']:.0f}", "s": f"{found['s']:.1f}", "loss": f"{found['loss']:.2f}"}
    if case.chunk is not None and joint:
        shown |= {"of joint": f"{found['mb'] / joint['mb']:.3f}", "of joint's s": f"{found['s'] / joint['s']:.2f}"}
        wanted = found.get("joint_form", joint["loss"])
        shown["difference"] = f"{abs(found['loss'] / wanted - 1):.0e}"
    return shown


def circumstances(options: argparse.Namespace) -> str:
    """Commit, device, seed, PyTorch, processor, sizes."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
        )  # fmt: skip
        return done.stdout.strip()

    names = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"model name\s*:\s*(.+)", names)
    processor = model[1].strip() if model else platform.processor() or platform.machine()
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"cpu, {options.threads} threads"
    peak = "the allocator's peak" if options.device.startswith("cuda") else "growth of peak resident memory"
    peak += ", blocks kept as glibc does" if options.keep_blocks else ""
    dirty = " with changes" if git("status", "--porcelain") else ""
    return (
        f"commit {git('rev-parse', '--short', 'HEAD') or 'unknown'}{dirty}; device {device}; seed {options.seed}; "
        f"PyTorch {torch.__version__}; {processor}; {peak}{'' if resets() else ' (never reset)'}\n"
        f"D = {options.depth}, V = {options.vocab}, width {options.width}, {options.layers} trunk layers, "
        f"{options.rows} rows of {options.length} tokens, float32, {options.chunk} rows of logits at a time"
    )


def main() -> None:
    """Print the table as it grows, and whether the sequential form keeps to a quarter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--seed", type=int, default=0)
    sizes = {"depth": 7, "vocab": 32000, "width": 256, "layers": 2, "rows": 8, "length": 128, "chunk": 256}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--keep-blocks", action="store_true", help="leave the allocator as it comes")
    parser.add_argument("--only", default="", help="families, with commas between")
    options = parser.parse_args()
    os.environ.update({} if options.keep_blocks else RETURN_BLOCKS, OMP_NUM_THREADS=str(options.threads))
    print(circumstances(options), flush=True)
    joint: dict[str, dict[str, float]] = {}
    rows, ratios = [], {}
    for case in cases(options.depth, options.chunk):
        if options.only and case.heads.kind not in options.only.split(","):
            continue
        found = alone(case, options)
        if case.chunk is None:
            joint[case.name] = found
        rows.append(line(case, found, joint.get(case.alike, {})))
        print(f"  {rows[-1]}", file=sys.stderr, flush=True)
        if case.chunk is not None and found and joint.get(case.alike):
            ratios[case.name] = found["mb"] / joint[case.alike]["mb"]
    print("\n" + render_markdown(rows, list(rows[0])) + "\n")
    over = [name for name, ratio in ratios.items() if ratio > 0.25]
    print("At most a quarter of the joint form: " + (f"no, not {'; '.join(over)}" if over else "yes, every line"))


if __name__ == "__main__":
    main()
