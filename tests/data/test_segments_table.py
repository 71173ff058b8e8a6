"""Lines of `segments`: what they mean, and the words for those that mean nothing."""

from __future__ import annotations

import pytest

from speechmtp.data.segments import Segment, parse_segment, segment_of
from speechmtp.errors import DataError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("rec 0 1.5", Segment("rec", 0.0, 1.5)),
        ("rec\t0.25  -1", Segment("rec", 0.25, None)),
        ("rec 1e-1 2 0", Segment("rec", 0.1, 2.0, 0)),
        ("rec 3 4 1", Segment("rec", 3.0, 4.0, 1)),
    ],
)
def test_a_line_is_a_segment(value: str, expected: Segment) -> None:
    assert parse_segment(value, "segments:1") == segment_of(value.split()) == expected


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("rec 0", r"3 fields, `utterance recording start end \[channel\]` is expected"),
        ("rec 0 1 0 0", "6 fields"),
        ("rec zero 1", "could not convert"),
        ("rec 0 1 left", "channel number from 0"),
        ("rec -0.5 1", "segment from -0.5 to 1 s"),
        ("rec 2 2", "segment from 2 to 2 s"),
        ("rec inf -1", "segment from inf to -1 s"),
        ("rec 0 nan", "segment from 0 to nan s"),
        ("rec 0 -2", "segment from 0 to -2 s"),
    ],
)
def test_a_line_that_means_nothing_is_an_error_with_its_place(value: str, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        parse_segment(value, "set/segments:7")
    assert str(caught.value).startswith("set/segments:7: ")


def test_times_are_not_checked_where_only_the_fields_count() -> None:
    assert segment_of(["rec", "2", "1"]) == Segment("rec", 2.0, 1.0)
    with pytest.raises(ValueError, match="could not convert"):
        segment_of(["rec", "a", "1"])


def test_a_recording_alone_is_one_whole_segment() -> None:
    assert Segment("rec") == Segment("rec", 0.0, None, None)
