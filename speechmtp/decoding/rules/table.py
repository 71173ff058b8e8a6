"""The table of acceptance rules, by the names that strategies use (`rule=NAME`). A new rule is one line here."""

from speechmtp.decoding.rules.block_verification import BlockVerification
from speechmtp.decoding.rules.contract import AcceptanceRule
from speechmtp.decoding.rules.distance import Distance
from speechmtp.decoding.rules.ensemble import Ensemble
from speechmtp.decoding.rules.entropy_window import EntropyWindow
from speechmtp.decoding.rules.greedy_match import GreedyMatch
from speechmtp.decoding.rules.groups import AlikeGroups
from speechmtp.decoding.rules.joint_ratio import JointRatio
from speechmtp.decoding.rules.k_seq import KSeq
from speechmtp.decoding.rules.keep_draft import KeepDraft
from speechmtp.decoding.rules.min_block import MinBlock
from speechmtp.decoding.rules.ratio import Ratio
from speechmtp.decoding.rules.sample_match import SampleMatch
from speechmtp.decoding.rules.threshold import Threshold
from speechmtp.decoding.rules.thresholds import Thresholds
from speechmtp.decoding.rules.top_k import TopK
from speechmtp.decoding.rules.typical import Typical

RULES: dict[str, type[AcceptanceRule]] = {
    rule.name: rule
    for rule in (
        GreedyMatch,  # the default of strategies that verify
        Ratio,
        BlockVerification,
        SampleMatch,
        KSeq,
        Typical,
        Threshold,
        TopK,
        Distance,
        MinBlock,
        AlikeGroups,
        EntropyWindow,
        Thresholds,
        Ensemble,
        JointRatio,
        KeepDraft,
    )
}
