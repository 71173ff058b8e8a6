"""How far are word times off, and does confidence tell right words from wrong ones?

Times: recordings of DATA_DIR whose files `frames` and `phones` give the exact span of every phone (25 ms a frame, a
silent one before and behind), as those of a synthesiser. Every recording is recognised; those are counted whose words
are as many as the phones' words. Starts are measured on all words; ends on those that the next word follows within
0.1 s, since the synthesiser's phones in front of a pause reach into it.

Confidence: words of CONFIDENCE_DIR, aligned with its text. AUC is the chance that a right word is surer than a wrong
one.

    python benchmarks/word_times.py DATA_DIR [--model default] [--every 1] [--confidence CONFIDENCE_DIR]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from speechmtp.api import Recogniser, load
from speechmtp.data.kaldi import Utterance, read_data_dir
from speechmtp.decoding.engine import Recorded
from speechmtp.models.character_ctc import CharacterCtcHead
from speechmtp.progress import track
from speechmtp.scoring.align import align
from speechmtp.scoring.tables import Column, render_markdown
from speechmtp.text.normalize import get_normalizer
from speechmtp.types import Request, Result
from speechmtp.words.timing import time_words
from speechmtp.words.word import Word

FRAME = 0.025  # seconds of an entry of `frames`
STRESS = "\N{MODIFIER LETTER VERTICAL LINE}\N{MODIFIER LETTER LOW VERTICAL LINE}"
Span = tuple[float, float]


def exact_spans(phones: str, frames: str) -> list[Span]:
    """Start and end in seconds of the words of a line of phones, without the punctuation at their ends."""
    edges = np.cumsum([0, *map(int, frames.split())]) * FRAME
    found, at = list[Span](), 1
    for word in phones.split(" "):
        spoken = [place for place, one in enumerate(word) if one.isalnum() or one in STRESS]
        if spoken:
            found.append((float(edges[at + spoken[0]]), float(edges[at + spoken[-1] + 1])))
        at += len(word) + 1
    return found


def table(path: Path) -> dict[str, str]:
    """The lines of a file by their first field; what follows is left as it is."""
    return dict(line.split(" ", 1) for line in path.read_text(encoding="utf-8").splitlines())


def recognised(recogniser: Recogniser, utterance: Utterance) -> tuple[Request, Result]:
    """The request and the result of one recording."""
    request = recogniser.listen(utterance.load(recogniser.rate, False), utterance.id)
    [result] = recogniser.decode([request], recogniser.default_strategy, None, Recorded(logprobs=True))
    return request, result


def errors_of(words: tuple[Word, ...], spans: list[Span]) -> tuple[list[float], list[float]]:
    """Errors in seconds of all starts, and of the ends without a pause behind."""
    starts, ends = [], []
    for number, (word, (start, end)) in enumerate(zip(words, spans)):
        assert word.start is not None and word.end is not None
        starts.append(word.start - start)
        if number + 1 < len(spans) and spans[number + 1][0] - end < 0.1:
            ends.append(word.end - end)
    return starts, ends


def row_of(name: str, errors: list[float], seconds: float) -> dict[str, object]:
    """A row of the table; `seconds` are CPU seconds a second of audio."""
    size = np.abs(errors)
    found: dict[str, object] = {"name": name, "words": len(errors), "cost": 1000 * seconds}
    if not len(errors):
        return found
    return found | {
        "median": 1000 * np.median(size), "p90": 1000 * np.quantile(size, 0.9), "lead": 1000 * np.median(errors),
        "within": 100 * np.mean(size <= 0.1),
    }  # fmt: skip


def time_table(recogniser: Recogniser, data: str, root: str | None, every: int) -> str:
    """The table of errors in milliseconds, by the CTC head, where there is one, and by cross-attention."""
    phones, frames = table(Path(data) / "phones"), table(Path(data) / "frames")
    ways: dict[str, CharacterCtcHead | None] = {"cross-attention": None}
    if recogniser.bundle.ctc is not None:
        ways["Viterbi over the CTC head"] = recogniser.bundle.ctc
    starts, ends = ({way: list[float]() for way in ways} for _ in range(2))
    cost = dict.fromkeys(ways, 0.0)
    counted, seconds = 0, 0.0
    for utterance in track(read_data_dir(data, root).utterances[::every], "recordings"):
        request, result = recognised(recogniser, utterance)
        spans = exact_spans(phones[utterance.id], frames[utterance.id])
        seconds += request.audio_seconds
        for way, ctc in ways.items():
            began = time.thread_time()
            words = time_words(recogniser.bundle.model, ctc, request, result.tokens, result.trace.logprobs)
            cost[way] += time.thread_time() - began
            if len(words) == len(spans):
                for mine, found in zip((starts[way], ends[way]), errors_of(words, spans)):
                    mine += found
        counted += len(words) == len(spans)
    rows = [row_of(f"{way}, {what}", errors[way], cost[way] / seconds)
            for way in ways for what, errors in (("starts", starts), ("ends", ends))]  # fmt: skip
    columns = [
        Column("name", f"{counted} recordings"), Column("words", "words"), Column("median", "median ms", 1),
        Column("p90", "p90 ms", 1), Column("within", "within 100 ms %", 1), Column("lead", "median signed ms", 1),
        Column("cost", "CPU ms / s", 2),
    ]  # fmt: skip
    return render_markdown(rows, columns)


def confidence_line(recogniser: Recogniser, data: str, root: str | None) -> str:
    """How well confidence tells right from wrong words, by ranks."""
    bundle = recogniser.bundle
    normalize = get_normalizer(bundle.normalizer)
    right, wrong = list[float](), list[float]()
    for utterance in track(read_data_dir(data, root).utterances, "confidence"):
        request, result = recognised(recogniser, utterance)
        words = time_words(
            recogniser.bundle.model, recogniser.bundle.ctc, request, result.tokens, result.trace.logprobs
        )
        said = [(one, word.confidence) for word in words for one in normalize(word.text).split()]
        sure = iter(said)
        for reference, spoken in align(normalize(utterance.text or "").split(), [one for one, _ in said]):
            if spoken is not None:
                confidence = next(sure)[1]
                assert confidence is not None
                (right if reference == spoken else wrong).append(confidence)
    above = np.subtract.outer(right, wrong)
    auc = float(np.mean((above > 0) + 0.5 * (above == 0)))
    return f"confidence: AUC {auc:.3f}, {len(right)} right words and {len(wrong)} wrong ones"


def main() -> None:
    """Prints a table and a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA_DIR")
    parser.add_argument("--root")
    parser.add_argument("--model", default="default")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th recording")
    parser.add_argument("--confidence", metavar="CONFIDENCE_DIR")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recogniser = load(args.model, "cpu")
    print(time_table(recogniser, args.data, args.root, args.every))
    if args.confidence:
        print(confidence_line(recogniser, args.confidence, args.root))


if __name__ == "__main__":
    main()
