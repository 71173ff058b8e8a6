"""Every message in the stored exchanges, against the types of the package that reads it. Arguments: part (`openai` or
`deepgram`), and the folder of exchanges."""

import json
import sys
from pathlib import Path
from typing import Any

from recording import tell, tell_version


def messages(folder: str, prefix: str) -> list[dict[str, Any]]:
    """The messages that a server sent, of files that begin so."""
    lines = [line.strip() for path in Path(folder).glob(f"{prefix}*.txt") for line in path.read_text().splitlines()]
    return [json.loads(line.partition(" ")[2]) for line in lines if line.startswith(("send {", "draft {"))]


def check_openai(folder: str) -> int:
    """Server events of OpenAI Realtime, without those of ours. In transcription sessions the package types `session` as
    either kind; ours must be one of transcription, with nothing that its type does not know."""
    from openai.types.realtime import RealtimeServerEvent
    from openai.types.realtime.realtime_transcription_session_create_response import (
        RealtimeTranscriptionSessionCreateResponse,
    )
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
    found = [one for one in messages(folder, "openai") if not one["type"].startswith("speechmtp.")]
    for one in found:
        if "session" in one:
            include = [name for name in one["session"]["include"] or [] if not name.startswith("speechmtp.")]
            session = {**one["session"], "include": include or None}
            if session["audio"]["input"]["format"].get("rate"):
                session["audio"]["input"]["format"]["rate"] = 24000  # other rates are an extension of ours
            RealtimeTranscriptionSessionCreateResponse.model_validate(session)
            one = {**one, "session": session}
        read = adapter.validate_python(one)
        assert read.type == one["type"], one
        if "session" not in one:
            assert not read.model_extra, (read.model_extra, one)
    return len(found)


def check_deepgram(folder: str) -> int:
    """Messages of Deepgram's live transcription."""
    from deepgram.listen.v1 import types

    found = messages(folder, "deepgram")
    for one in found:
        kind = getattr(types, f"ListenV1{one['type']}")
        read = kind.model_validate(one)
        assert not read.model_extra, (read.model_extra, one)
    return len(found)


tell_version("openai" if sys.argv[1] == "openai" else "deepgram-sdk")
count = (check_openai if sys.argv[1] == "openai" else check_deepgram)(sys.argv[2])
assert count > 20, count
tell(text=f"{count} messages")
