"""The arithmetic of a comparison, on outputs, counts and seconds that are written down."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scripted_set import Script, ScriptedSet, result

from speechmtp.decoding.engine import Recorded
from speechmtp.decoding.sampling import SamplingConfig
from speechmtp.evaluation import comparison
from speechmtp.evaluation.comparison import NO_GAP, RowTotals, recommend, run_comparison
from speechmtp.kernels.cpu.packed_linear import has_packed, pack
from speechmtp.types import Result

AR = {
    "a": result((5, 6, 7, 2), 4, gaps=[1.0, 2e-4, 1.0, 1.0], prompt_calls=1, fed=9),
    "b": result((5, 6, 2), 3, gaps=[1.0] * 3, prompt_calls=1, fed=8),
    "c": result((8, 2), 2, gaps=[1.0] * 2, prompt_calls=1, fed=7),
}
DRAFTS = {"num_drafts": 1, "num_draft_tokens": 3}
LOOKUP = {
    "a": result((5, 6, 7, 2), 2, **DRAFTS, num_accepted_tokens=2, num_accepted_tokens_per_pos=[1, 1], draft_seconds=0.3,
                draft_calls=1, fed=11, prompt_calls=1),
    "b": result((5, 6, 2), 2, **DRAFTS, num_accepted_tokens=1, num_accepted_tokens_per_pos=[1], draft_seconds=0.1,
                draft_calls=2, fed=12, prompt_calls=1),
    "c": result((8, 2), 1, **DRAFTS, draft_seconds=0.2, draft_calls=4, fed=13, prompt_calls=1),
}  # fmt: skip
LABEL = "lookup:depth=3"
PEER = {"a": 0.5, "b": 0.25, "c": 0.125}


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Transformers' own rows say what `ar` says, in `PEER` seconds; the utterances that it was asked for."""
    asked: list[str] = []

    def decode(_: Any, name: str, mode: str) -> Result:
        assert mode == "greedy"
        asked.append(name)
        return replace(AR[name], seconds=PEER[name])

    monkeypatch.setattr(comparison, "decode_by_peer", decode)
    return asked


def rows_of(script: Script, strategies: Sequence[str], batch_size: int = 1, **more: Any) -> dict[str, dict[str, Any]]:
    """Rows of a comparison by label."""
    settings = {key: more.pop(key) for key in ("sampling", "peers") if key in more}
    return {r["label"]: r for r in run_comparison(ScriptedSet(script, **more), strategies, batch_size, **settings).rows}


def test_times_of_batches_and_speed_ups(peer: list[str]) -> None:
    script = Script({"ar": AR, LABEL: LOOKUP}, {"ar": [4.0, 2.0], LABEL: [2.0, 1.0]})
    rows = rows_of(script, ["ar", LABEL], 2, peers=["greedy"], listen_seconds=6.0, audio_seconds=36.0, words=5)
    plain, row, theirs = rows["ar"], rows[LABEL], rows["transformers:greedy"]
    assert [r["seconds"] for r in rows.values()] == [6.0, 3.0, 0.875], "of the batches, without the first call"
    assert [r["speedup_vs_ar"] for r in rows.values()] == [1.0, 2.0, 6 / 0.875]
    assert [r["end_to_end_seconds"] for r in rows.values()] == [12.0, 9.0, 6.875]
    assert [r["end_to_end_speedup_vs_ar"] for r in rows.values()] == [1.0, 12 / 9, 12 / 6.875]
    assert [r["rtfx"] for r in rows.values()] == [3.0, 4.0, 36 / 6.875] and row["audio_seconds"] == 36.0
    # Two batches: their longest rows make 2 and 1 calls, which 0.6 s of drafting are divided by.
    assert row["draft_ms_per_call"] == pytest.approx(200.0) and plain["draft_ms_per_call"] == 0.0
    assert theirs["draft_ms_per_call"] is None
    assert [(r["batch_size"], r["utterances"], r["threads"]) for r in rows.values()] == [
        (2, 3, torch.get_num_threads()), (2, 3, torch.get_num_threads()), (1, 3, torch.get_num_threads())
    ]  # fmt: skip
    assert peer == ["a", "b", "a", "b", "c"], "the first batch twice: once as a warm-up"


def test_counts_of_a_row() -> None:
    script = Script({"ar": AR, LABEL: LOOKUP})
    rows = rows_of(script, ["ar", LABEL], audio_seconds=10.0, words=4)
    plain, row = rows["ar"], rows[LABEL]
    counts = ("trunk_calls", "prompt_calls", "draft_calls", "forwards", "fed", "tokens")
    assert [row[key] for key in counts] == [5, 3, 7, 12, 36, 9]
    assert [plain[key] for key in counts] == [9, 3, 0, 9, 24, 9]
    assert (row["tokens_per_call"], plain["tokens_per_call"]) == (9 / 5, 1.0)
    assert (row["calls_per_word"], row["calls_per_audio_second"]) == (5 / 4, 5 / 10)
    assert row["mean_acceptance_length"] == 2.0 and row["acceptance_per_position"] == [2 / 3, 1 / 3]
    assert plain["mean_acceptance_length"] is plain["acceptance_per_position"] is None
    assert row["draft_ms_per_call"] == pytest.approx(1000 * 0.6 / 5), "batches of one: every call"
    assert (row["strategy"], row["options"]["depth"], row["seed"], row["dtype"]) == ("lookup", 3, 0, "float32")
    assert (row["device"], row["drafts"], row["linear_maps"]) == ("cpu", "float32", "plain")


def test_without_ar_audio_or_words_there_is_nothing_to_compare_with() -> None:
    row = rows_of(Script({"ar": AR, LABEL: LOOKUP}), [LABEL])[LABEL]
    empty = ("speedup_vs_ar", "end_to_end_speedup_vs_ar", "rtfx", "calls_per_word", "calls_per_audio_second", "wer")
    assert {key: row[key] for key in empty} == dict.fromkeys(empty)
    assert row["identical_to_ar"] == 3 and row["end_to_end_seconds"] == 3.0


def test_a_row_that_calls_no_trunk_has_no_speed_up_and_is_compared_by_its_text() -> None:
    said = {"a": result((5, 9), text="5 6 7 2"), "b": result((5, 6, 2), text="other"), "c": result((8, 2))}
    rows = rows_of(Script({"ar": AR, "ctc-only": said}), ["ar", "ctc-only"], has_ctc=True, audio_seconds=1.0)
    row = rows["ctc-only"]
    assert (row["identical_to_ar"], row["near_ties"], row["differences"]) == (2, [], None)
    assert (row["speedup_vs_ar"], row["tokens_per_call"], row["draft_ms_per_call"]) == (None, None, None)
    assert (row["exact"], row["seeded"], row["end_to_end_speedup_vs_ar"]) == (False, False, 1.0)


def test_rows_take_turns_behind_a_warm_up(peer: list[str]) -> None:
    script = Script({"ar": AR, LABEL: LOOKUP, "jacobi": AR})
    found = run_comparison(ScriptedSet(script), ["ar", LABEL, "jacobi"], peers=["greedy"])
    assert list(found.texts) == [r["label"] for r in found.rows] == ["ar", LABEL, "jacobi", "transformers:greedy"]
    assert found.texts[LABEL] == {"a": "5 6 7 2", "b": "5 6 2", "c": "8 2"}
    reference, rest = script.calls[:3], script.calls[3:]
    assert [(c.label, c.names, c.references) for c in reference] == [("ar", (name,), False) for name in "abc"]
    assert all(c.recorded == Recorded(gaps=True) for c in reference)
    warm = [("ar", "a"), (LABEL, "a"), ("jacobi", "a")]
    turns = [("ar", "a"), (LABEL, "a"), ("jacobi", "a"), (LABEL, "b"), ("jacobi", "b"), ("ar", "b")]
    assert [(c.label, *c.names) for c in rest] == [*warm, *turns, ("jacobi", "c"), ("ar", "c"), (LABEL, "c")]
    assert all(c.references and c.recorded == Recorded(times=True) for c in rest)
    assert peer == ["a", "a", "b", "c"]


def different(place: int, name: str = "a") -> Mapping[str, Result]:
    """The outputs of a row that has another token than `ar` at a place, or one more behind its end."""
    tokens = [*AR[name].tokens, 2]
    tokens[place] += 1
    return AR | {name: result(tokens if place == len(tokens) - 1 else tokens[:-1], 2)}


@pytest.mark.parametrize(
    ("dtype", "limit"), [("float32", 1e-4), ("float64", 1e-4), ("bfloat16", 5e-2), ("float16", 5e-2)]
)
def test_a_near_tie_is_a_gap_below_the_limit(dtype: str, limit: float) -> None:
    for gap, tie in ((limit, False), (0.999 * limit, True)):
        plain = AR | {"a": result(AR["a"].tokens, 4, gaps=[1.0, 1.0, gap, 1.0])}
        script = Script({"ar": plain, LABEL: different(2)})
        found = run_comparison(ScriptedSet(script, dtype=getattr(torch, dtype)), ["ar", LABEL])
        row, expected = found.rows[1], [{"utterance": "a", "index": 2, "gap": gap}]
        assert (row["near_ties"], row["differences"]) == ((expected, []) if tie else ([], expected))
        assert (row["identical_to_ar"], row["dtype"], found.differs) == (2, dtype, not tie)


def test_where_the_outputs_differ() -> None:
    shorter = AR | {"c": result((8,), 1), "a": result((5, 3, 7, 2), 2)}
    row = rows_of(Script({"ar": AR, LABEL: shorter}), ["ar", LABEL], backwards=True)[LABEL]
    gaps = [{"utterance": "a", "index": 1, "gap": 2e-4}, {"utterance": "c", "index": 1, "gap": 1.0}]
    assert row["differences"] == gaps and row["identical_to_ar"] == 1
    longer = rows_of(Script({"ar": AR, LABEL: different(4)}), ["ar", LABEL])[LABEL]
    assert longer["differences"] == [{"utterance": "a", "index": 4, "gap": NO_GAP}], "behind the end there is no tie"


def test_lossy_rows_may_differ() -> None:
    label = "lookup:depth=3,rule=top-k"
    plain = AR | {"a": result(AR["a"].tokens, 4, gaps=[1e-5] * 4)}
    found = run_comparison(ScriptedSet(Script({"ar": plain, label: different(0)})), ["ar", label])
    row = found.rows[1]
    assert (row["exact"], row["seeded"], row["near_ties"], row["differences"]) == (False, False, [], None)
    assert row["identical_to_ar"] == 2 and not found.differs


def test_the_peers_promise_the_tokens_of_ar(monkeypatch: pytest.MonkeyPatch) -> None:
    other = different(0)
    monkeypatch.setattr(comparison, "decode_by_peer", lambda _, name, __: other[name])
    [row] = run_comparison(ScriptedSet(Script({"ar": AR})), [], peers=["greedy"]).rows
    assert (row["strategy"], row["options"]) == ("transformers", {"mode": "greedy"})
    assert row["exact"] and row["seeded"]
    assert row["differences"] == [{"utterance": "a", "index": 0, "gap": 1.0}] and row["oracle_tokens_per_call"] is None


def drawn(script: Script, strategies: Sequence[str], **config: Any) -> dict[str, dict[str, Any]]:
    """Rows of a comparison that samples."""
    return rows_of(script, strategies, sampling=SamplingConfig(temperature=1.0, seed=7, **config))


def test_drawn_rows_have_their_acceptance_and_only_coupled_ones_the_tokens_of_ar() -> None:
    ratio = "lookup:depth=3,rule=ratio"
    counts = {name: {"examined": n, "overlap": 0.75 * n} for name, n in (("a", 3), ("b", 2), ("c", 1))}
    judged = {name: replace(one, trace=replace(one.trace, **counts[name])) for name, one in LOOKUP.items()}
    script = Script({"ar": AR, LABEL: judged, ratio: different(0)})
    rows = drawn(script, ["ar", LABEL, ratio])
    assert (rows[LABEL]["acceptance"], rows[LABEL]["expected_acceptance"]) == (3 / 6, 0.75)
    assert rows["ar"]["acceptance"] is rows["ar"]["expected_acceptance"] is None
    assert [rows[label]["seeded"] for label in rows] == [True, True, False]
    assert rows[ratio]["differences"] is None and rows[LABEL]["differences"] == [] and rows[ratio]["exact"]
    greedy = rows_of(script, [LABEL, ratio])[ratio]
    assert greedy["seeded"] and len(greedy["differences"]) == 1, "without sampling every exact rule has `ar`'s tokens"
    assert rows[LABEL]["seed"] == 7 and rows[LABEL]["sampling"] == {"temperature": 1.0, "seed": 7}
    again = [(c.label, c.names) for c in script.calls if c.recorded and c.recorded.overlap]
    assert again == [(label, (name,)) for label in rows for name in "abc"]
    assert rows[LABEL]["seconds"] == 3.0, "that pass is not timed"
    assert "acceptance" not in rows_of(Script({"ar": AR}), ["ar"])["ar"]


def test_the_most_tokens_a_call_that_a_depth_allows() -> None:
    long = {"a": result((5, 5, 5, 5, 5, 2), 6), "b": result((5, 6, 2), 3), "c": result((2,), 1)}
    labels = ["ar", "lookup:depth=1", "oracle:depth=1", "ctc", "ctc-only", "jacobi"]
    rows = rows_of(Script(dict.fromkeys(labels, long)), labels, has_ctc=True)
    # 3 + 2 + 1 calls of two tokens; drafts of heads begin behind the prompt's call: 4 + 2 + 1.
    assert [row["oracle_tokens_per_call"] for row in rows.values()] == [None, 10 / 6, 10 / 7, 10 / 3, None, None]
    silent = {"a": result((), 1)}
    assert rows_of(Script({"ar": silent, LABEL: silent}), [LABEL])[LABEL]["oracle_tokens_per_call"] is None


def test_unfinished_and_flagged_outputs_are_counted() -> None:
    said = {"a": result((5,) * 4, 4, finished=False, flags=("limit", "repetition")),
            "b": result((5,) * 3, 3, finished=False, flags=("limit",)), "c": AR["c"]}  # fmt: skip
    row = rows_of(Script({"ar": said}), ["ar"])["ar"]
    assert row["unfinished"] == 2 and list(row["flagged"].items()) == [("limit", 2), ("repetition", 1)]


def test_a_row_says_how_linear_layers_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHMTP_LINEAR", "packed")
    evaluation_set = ScriptedSet(Script({"ar": AR}))
    assert run_comparison(evaluation_set, ["ar"]).rows[0]["linear_maps"] == "plain"
    pack(evaluation_set.runner.trunk.float())
    assert run_comparison(evaluation_set, ["ar"]).rows[0]["linear_maps"] == ("packed" if has_packed() else "plain")
    evaluation_set.device = torch.device("meta")
    row = run_comparison(evaluation_set, ["ar"]).rows[0]
    assert (row["linear_maps"], row["device"]) == (None, "meta")


def test_heads_that_draft_in_8_bits_are_named() -> None:
    class Heads:
        drafts_in_int8, depth = False, 0

    evaluation_set = ScriptedSet(Script({"ar": AR}))
    first, second = Heads(), Heads()
    evaluation_set.runner.heads = {"first": first, "second": second}  # type: ignore[dict-item]
    assert run_comparison(evaluation_set, ["ar"]).rows[0]["drafts"] == "float32"
    second.drafts_in_int8 = True
    assert run_comparison(evaluation_set, ["ar"]).rows[0]["drafts"] == "int8"


def test_the_recommended_row_calls_the_trunk_is_exact_and_is_fastest() -> None:
    def row(label: str, seconds: float, calls: int = 5, exact: bool = True) -> dict[str, Any]:
        name = label.split(":")[0]
        return {"label": label, "strategy": name, "exact": exact, "seconds": seconds, "trunk_calls": calls}

    left_out = [row("ar", 1.0), row("oracle", 1.0), row("transformers:greedy", 1.0), row("top-k", 1.0, exact=False),
                row("ctc-only", 1.0, 0)]  # fmt: skip
    assert recommend(left_out) is None and recommend([]) is None
    assert recommend([*left_out, row("ctc", 3.0, 2), row("verify", 2.0, 9)]) == "verify"
    assert recommend([row("ctc", 2.0, 5), row("verify", 2.0, 4)]) == "verify", "of equal times the fewer calls"


def test_a_row_starts_from_nothing() -> None:
    totals = RowTotals(None, "greedy")
    assert (totals.label, totals.seconds, totals.batch_calls, totals.results) == ("transformers:greedy", 0.0, 0, {})
