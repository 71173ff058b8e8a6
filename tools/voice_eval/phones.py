"""Phones of sentences for systems that read misaki's symbols: by this project's front end, or by that of hibari-tts.

Rows of a table are compared on the same phones, so that they differ in the voice alone.

    python tools/voice_eval/phones.py sentences.txt phones.txt
"""

import argparse
import sys
from collections.abc import Callable, Sequence

from rows import texts_of, with_peers

from speechmtp.data.tables import write_table
from speechmtp.errors import SpeechMTPError


def ours() -> Callable[[str], str]:
    """This project's front end; sentences of a text stand one after the other."""
    from speechmtp.g2p.frontend import FrontEnd

    read = FrontEnd()
    return lambda text: " ".join(sentence.phones for sentence in read.sentences(text))


def hibari() -> Callable[[str], str]:
    """The front end of the package hibari-tts, a port of misaki's."""
    from hibari.g2p import G2P

    read = G2P()
    return lambda text: str(read(text))


BY = {"speechmtp": ours, "hibari": hibari}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", help="file of lines `id text`")
    parser.add_argument("out", help="file of lines `id phones`")
    parser.add_argument("--by", choices=list(BY), default="speechmtp")
    args = parser.parse_args(argv)
    with_peers()
    try:
        read = BY[args.by]()
        write_table(args.out, {name: read(text) for name, text in texts_of(args.texts).items()})
    except ImportError as error:
        print(f"phones: error: {error}; expected it in the folder PEERS", file=sys.stderr)
        return 2
    except SpeechMTPError as error:
        print(f"phones: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
