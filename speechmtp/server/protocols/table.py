"""The protocols over websockets that the server speaks, each under the paths of those who made it."""

from collections.abc import Mapping

from speechmtp.server.protocols.contract import SocketProtocol
from speechmtp.server.protocols.deepgram import DEEPGRAM, DEEPGRAM_SECOND
from speechmtp.server.protocols.openai_realtime import OPENAI_REALTIME
from speechmtp.server.protocols.vosk import VOSK

PROTOCOLS: Mapping[str, SocketProtocol] = {
    protocol.name: protocol for protocol in (OPENAI_REALTIME, DEEPGRAM, DEEPGRAM_SECOND, VOSK)
}
