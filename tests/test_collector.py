"""The collector of cycles comes back as it was."""

import gc

import pytest

from speechmtp.collector import paused_collector


def test_it_is_paused_inside_alone() -> None:
    """Also where the inside raises."""
    assert gc.isenabled()
    with paused_collector():
        assert not gc.isenabled()
        with paused_collector():
            assert not gc.isenabled()
        assert not gc.isenabled()  # the outer one still holds
    assert gc.isenabled()
    with pytest.raises(KeyError), paused_collector():
        raise KeyError
    assert gc.isenabled()


def test_what_was_off_stays_off() -> None:
    """A program that runs without a collector gets none."""
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
