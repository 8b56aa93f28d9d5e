"""Without fork, processes that start do not see the main script; with fork nothing changes."""

import sys

import pytest

from repre.utils import hidden_main as module
from repre.utils.hidden_main import hidden_main


@pytest.mark.parametrize("fork", [True, False])
def test_the_script_is_hidden_only_without_fork(fork: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FORK", fork)
    main = sys.modules["__main__"]
    before = main.__spec__, getattr(main, "__file__", None)
    with hidden_main():
        assert (main.__spec__ == before[0]) is (fork or before[0] is None)
        assert (getattr(main, "__file__", None) == before[1]) is (fork or before[1] is None)
    assert (main.__spec__, getattr(main, "__file__", None)) == before
