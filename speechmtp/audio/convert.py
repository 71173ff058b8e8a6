"""Read through an installed ffmpeg what libsndfile does not know: m4a, mp4, webm, mkv, aac and others."""

import re
import shutil
import struct
import tempfile
import warnings
from pathlib import Path

from speechmtp.audio.containers.links import Data, Link, Spliced, part
from speechmtp.audio.containers.mapped import STEP, Mapped
from speechmtp.audio.pipes import run_program
from speechmtp.errors import AudioWarning, DataError, UnreadableError

# No playlists and no lists of other files: what is given is all that is read.
_FORMATS = (
    "aac,ac3,aiff,amr,ape,asf,au,avi,caf,dts,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,"
    "mpegts,nistsphere,ogg,shn,sox,tak,tta,voc,w64,wav,wv"
)
OPTIONS = (
    "-nostdin", "-hide_banner", "-nostats", "-v", "repeat+level+info", "-protocol_whitelist", "file,pipe",
    "-format_whitelist", _FORMATS,
)  # fmt: skip
OUTPUT = ("-map", "0:a:0", "-c:a", "pcm_f32le", "-f", "wav")
_LARGEST = 4000 << 20  # bytes; a WAV file can hold little more
_BYTE_RATE = 28  # where a WAV file of ffmpeg says how many bytes a second has
_TIMEOUT = 600.0
_DURATION = re.compile(r"^\[info\]\s+Duration: (\d+):(\d+):(\d+\.\d+)", re.MULTILINE)
COMPLAINT = re.compile(r"\[(?:error|fatal)\] (.*)")
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


def convert(where: str, data: Data, path: str | None, reason: str) -> list[Link]:
    """The first audio stream of every file that `data`, the content of `path`, consists of, as WAV files of 32-bit
    floats. UnreadableError if ffmpeg is missing or finds none, DataError for a cut file; `reason` is why libsndfile
    does not read it."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise UnreadableError(
            f"{where}: unreadable ({reason}), expected audio that libsndfile knows; install ffmpeg, which may read it, "
            "or check or convert the file"
        )
    begins = [0, *_further(where, data)]
    if path is not None and len(begins) == 1:
        return [_converted(where, program, Path(path).absolute(), reason)]
    parts = [part(data, begin, end) for begin, end in zip(begins, [*begins[1:], len(data)])]
    return [_converted(where, program, one, reason) for one in parts]


def _converted(where: str, program: str, content: Path | memoryview, reason: str) -> Link:
    """What ffmpeg makes of one file. An AudioWarning if ffmpeg complains, but makes all that the container declares or
    the container declares nothing."""
    with tempfile.TemporaryDirectory(prefix="speechmtp-") as folder:
        # A plain name, which ffmpeg takes for nothing else and prints in one way.
        source, target = Path(folder) / "audio", Path(folder) / "audio.wav"
        if isinstance(content, Path):
            source.symlink_to(content)
        else:
            with source.open("wb") as file:
                shutil.copyfileobj(Spliced([content]), file, STEP)
        output = (*OUTPUT, "-fs", str(_LARGEST), f"file:{target}")
        _, said, failed = run_program([program, *OPTIONS, "-i", f"file:{source}", *output], _TIMEOUT)
        complaints = [one.replace(f"file:{source}: ", "") for one in COMPLAINT.findall(said)]
        if failed is None and target.stat().st_size >= _LARGEST:
            failed, complaints = f"more than {_LARGEST >> 20} MiB of samples", []
        about = " ".join((complaints[0] if complaints else failed or "").split())
        if failed is not None:
            about = "not a container that is read" if "whitelist" in about else about
            raise UnreadableError(
                f"{where}: unreadable ({reason}; ffmpeg: {about}), expected audio that libsndfile or ffmpeg knows; "
                "check or convert the file"
            )
        with target.open("rb") as file:
            wav = Mapped(file)
    # Video may last longer than audio: only where ffmpeg complains too is something missing.
    told = None if not complaints or "Estimating duration" in said else _DURATION.search(said)
    held = len(wav)
    declared = held
    if told is not None:
        (byte_rate,) = struct.unpack_from("<I", wav, _BYTE_RATE)
        declared = max(held, int((3600 * int(told[1]) + 60 * int(told[2]) + float(told[3])) * byte_rate))
    if complaints and declared == held:
        warnings.warn(f"{where}: ffmpeg complains ({about}); what it reads is heard", AudioWarning, stacklevel=2)
    return Link((wav,), held, declared)


def _further(where: str, data: Data) -> list[int]:
    """Where further files begin in what was joined; of containers that ffmpeg reads to the end of the first only.
    DataError for an MP4 file that is cut short, which often has lost its index."""
    found = []
    if data[:16] == _ASF:
        place = data.find(_ASF, 16)
        while place >= 0:
            found.append(place)
            place = data.find(_ASF, place + 16)
    elif data[4:8] == b"ftyp":
        position = 0
        while position + 16 <= len(data):
            length = int.from_bytes(data[position : position + 4], "big")
            if length == 1:
                length = int.from_bytes(data[position + 8 : position + 16], "big")
            if position and data[position + 4 : position + 8] == b"ftyp":
                found.append(position)
            if length < 8:
                break
            position += length
        if position > len(data):
            raise DataError(
                f"{where}: {len(data)} bytes, {position} bytes expected by its header; the file is cut short, copy it "
                "anew"
            )
    return found
