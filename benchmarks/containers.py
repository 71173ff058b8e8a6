"""Is all of a file heard, whatever its container, or do both lengths stand in the error?

ffmpeg makes a file of every container and codec from one recording: whole, written into a pipe (so that no header could
be finished), cut at half of its bytes, and joined with itself. Each is right if it is heard to within 0.2 s of what it
holds, or refused with a line that names both lengths. What a cut file holds is what ffmpeg makes of it; a joined one
holds twice what ffmpeg makes of the whole one, which may be padded.

    python benchmarks/containers.py SPEECH_FILE
"""

import argparse
import re
import subprocess
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path

import soundfile

from speechmtp.audio.io import audio_info, read_audio
from speechmtp.errors import DataError
from speechmtp.scoring.tables import Column, render_markdown

NEAR = 0.2  # seconds
WAYS = ("whole", "piped", "cut", "joined")
# Name -> (muxer, options, options for a pipe besides).
KINDS: dict[str, tuple[str, str, str]] = {
    "WAV, 16 bit": ("wav", "-c:a pcm_s16le", ""),
    "WAV, 24 bit": ("wav", "-c:a pcm_s24le", ""),
    "WAV, float": ("wav", "-c:a pcm_f32le", ""),
    "WAV, µ-law": ("wav", "-c:a pcm_mulaw", ""),
    "WAV, MS ADPCM": ("wav", "-c:a adpcm_ms", ""),
    "WAV, MP3": ("wav", "-c:a libmp3lame", ""),
    "RF64": ("wav", "-rf64 always", ""),
    "Wave64": ("w64", "", ""),
    "AIFF": ("aiff", "", ""),
    "AU": ("au", "", ""),
    "CAF": ("caf", "", ""),
    "FLAC": ("flac", "", ""),
    "Ogg, FLAC": ("ogg", "-c:a flac", ""),
    "Ogg, Vorbis": ("ogg", "-c:a libvorbis", ""),
    "Ogg, Opus": ("opus", "-c:a libopus", ""),
    "MP3, constant": ("mp3", "-b:a 64k", ""),
    "MP3, variable": ("mp3", "-q:a 9", ""),
    "MP3, no Xing": ("mp3", "-q:a 9 -write_xing 0", ""),
    "MP2": ("mp2", "", ""),
    "ADTS, AAC": ("adts", "-c:a aac", ""),
    "M4A, AAC": ("ipod", "-c:a aac", "-movflags frag_keyframe+empty_moov"),
    "WebM, Opus": ("webm", "-c:a libopus", ""),
    "Matroska, Vorbis": ("matroska", "-c:a libvorbis", ""),
    "ASF, WMA": ("asf", "-c:a wmav2", ""),
}


def run_ffmpeg(*arguments: str) -> bytes:
    """Standard output of ffmpeg."""
    return subprocess.run(["ffmpeg", "-nostdin", "-y", "-v", "error", *arguments], capture_output=True).stdout


def files(source: str, kind: str, folder: Path) -> dict[str, Path]:
    """Way -> file."""
    muxer, options, piped = KINDS[kind]
    found = {way: folder / f"{way}.{muxer}" for way in WAYS}
    made = ["-i", source, *options.split(), "-f", muxer]
    run_ffmpeg(*made, str(found["whole"]))
    found["piped"].write_bytes(run_ffmpeg(*made, *piped.split(), "-"))
    data = found["whole"].read_bytes()
    found["cut"].write_bytes(data[: len(data) // 2])
    found["joined"].write_bytes(data + data)
    return found


def decoded(path: Path) -> float:
    """Seconds that ffmpeg makes of a file."""
    return len(run_ffmpeg("-i", str(path), "-f", "s16le", "-ac", "1", "-ar", "16000", "-")) / 32000


def judge(path: Path, there: float) -> tuple[str, str]:
    """What comes of reading a file, and `right`, `refused` or `wrong`."""
    try:
        counted = audio_info(path).duration
        samples, rate = read_audio(path, None)
    except DataError as error:
        lengths = re.search(r": ([\d.]+) (s|bytes)\b.*?, ([\d.]+) (s|bytes) expected", str(error))
        if lengths is None:
            return f"refused: {str(error).removeprefix(f'{path}: ')[:30]}...", "wrong"
        return f"refused, {lengths[1]} of {lengths[3]} {lengths[2]}", "refused"
    seconds = len(samples) / rate
    near = max(abs(seconds - there), abs(counted - seconds)) <= NEAR
    said = f"{seconds:.2f}" if near else f"**{seconds:.2f}**, header {counted:.2f}, holds {there:.2f}"
    return said, "right" if near else "wrong"


def main() -> None:
    """Prints a table and the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a recording that ffmpeg reads")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    samples, rate = read_audio(args.source, None)
    seconds = len(samples) / rate
    rows, verdicts = [], []
    for kind in KINDS:
        row = {"kind": kind}
        with tempfile.TemporaryDirectory() as folder:
            found = files(args.source, kind, Path(folder))
            there = {"whole": seconds, "piped": seconds, "cut": decoded(found["cut"])}
            there["joined"] = 2 * decoded(found["whole"])
            for way, path in found.items():
                row[way], verdict = judge(path, there[way])
                verdicts.append(verdict)
        rows.append(row)
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()[2]
    print(f"ffmpeg {ffmpeg}, libsndfile {soundfile.__libsndfile_version__}, soundfile {version('soundfile')}")
    counts = f"{verdicts.count('right')} heard, {verdicts.count('refused')} refused with both lengths"
    print(f"{seconds:.2f} s; {counts}, {verdicts.count('wrong')} wrong of {len(verdicts)}\n")
    print(render_markdown(rows, [Column("kind", "container, codec"), *map(Column, WAYS)]))


if __name__ == "__main__":
    main()
