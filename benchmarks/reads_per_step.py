"""How often does a step of decoding need a value of a tensor on the host, and where?

Spoken examples of the package are decoded as one batch by every strategy; each read is one wait of a GPU, counted on a
CPU (tests/host_reads.py says how). A step is one call of the trunk over the batch's live rows.

    python benchmarks/reads_per_step.py [--model an4] [--strategies ar,verify] [--rows 2] [--places]
"""

import argparse
import sys
from pathlib import Path

import torch
from checkout import Session

import speechmtp
from speechmtp.audio.io import read_audio
from speechmtp.scoring.tables import Column, render_markdown

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from host_reads import HostReads, reads_a_step

EXAMPLES = ("digits", "letters", "date", "command")


def main() -> None:
    """Prints a table, and with --places a list for every strategy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="an4")
    parser.add_argument("--heads", action="append", default=[])
    parser.add_argument("--strategies", default="ar,verify,threshold,ctc,tree,dynamic-tree")
    parser.add_argument("--rows", type=int, default=1, help="examples decoded together")
    parser.add_argument("--places", action="store_true", help="list where the reads are")
    args = parser.parse_args()
    torch.set_num_threads(1)
    session = Session.load(args.model, args.heads)
    rate = session.recogniser.rate
    audio = {name: read_audio(speechmtp.example(name), rate)[0] for name in EXAMPLES[: args.rows]}
    with HostReads() as heard:
        requests = [session.listen(samples, name) for name, samples in audio.items()]
    strategies = session.strategies(args.strategies)
    plain = [result.tokens for result in session.decode(requests, strategies["ar"], [()] * len(requests))]
    rows, reports = [], []
    for label, strategy in strategies.items():
        reads, steps = reads_a_step(lambda strategy=strategy: session.decode(requests, strategy, plain))
        kinds = ", ".join(f"{kind} {count / steps:.1f}" for kind, count in sorted(reads.kinds().items()))
        rows.append({"name": label, "steps": steps, "reads": reads.total / steps, "kinds": kinds})
        reports.append(f"{label}\n{reads.report(steps)}")
    columns = [Column("name", "strategy"), Column("steps"), Column("reads", "reads a step", 1), Column("kinds")]
    print(f"{args.model}, {args.rows} rows; hearing them took {heard.total} reads\n")
    print(render_markdown(rows, columns))
    if args.places:
        print("\n\n".join(reports))


if __name__ == "__main__":
    main()
