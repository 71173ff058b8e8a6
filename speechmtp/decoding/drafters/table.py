"""The table of drafters by name. A new drafter is one line here."""

from speechmtp.decoding.drafters.beams import BeamSample
from speechmtp.decoding.drafters.contract import Drafter, Silent
from speechmtp.decoding.drafters.ctc import CtcDraft, CtcHeads
from speechmtp.decoding.drafters.heads import HeadChain
from speechmtp.decoding.drafters.joint import Joint
from speechmtp.decoding.drafters.lookahead import Lookahead
from speechmtp.decoding.drafters.lookup import PromptLookup
from speechmtp.decoding.drafters.marginal import Marginal
from speechmtp.decoding.drafters.model import DraftModel
from speechmtp.decoding.drafters.previous import PreviousHeads, PreviousPass
from speechmtp.decoding.drafters.recycle import Oracle
from speechmtp.decoding.drafters.suffix import Suffix
from speechmtp.decoding.drafters.tree import DynamicTree, HeadTree

DRAFTERS: dict[str, type[Drafter]] = {
    drafter.name: drafter
    for drafter in (
        Silent,
        HeadChain,
        HeadTree,
        DynamicTree,
        DraftModel,
        BeamSample,
        CtcDraft,
        CtcHeads,
        PreviousPass,
        PreviousHeads,
        PromptLookup,
        Suffix,
        Lookahead,
        Marginal,
        Joint,
        Oracle,
    )
}
