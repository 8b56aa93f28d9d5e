"""Packed names behave as the list that they were made of."""

import pickle

import numpy as np
import pytest

from repre.data.io import names as module
from repre.data.io.names import Names

LIST = ["a.png", "", "cat/1.png", "é.png", "\udcff\udcfe.png", "cat/2.png", "x" * 300]


@pytest.mark.parametrize("at_once", [1, 3, 1 << 16])
def test_names_are_the_list_that_they_were_packed_from(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    names = pickle.loads(pickle.dumps(Names.of(LIST)))
    assert list(names) == LIST == [names[i] for i in range(len(LIST))]
    assert list(names.between(2, 5)) == LIST[2:5]
    assert list(names.between(3, 3)) == []
    assert list(names.take(np.array([5, 0, 0]))) == [LIST[5], LIST[0], LIST[0]]
    assert list(Names.concatenate([names, names.between(1, 4), Names.of([])])) == LIST + LIST[1:4]
    assert names == Names.of(LIST)
    assert names != Names.of([*LIST, "more"])
    assert len(Names.of([])) == 0


def test_the_digest_depends_on_where_names_end() -> None:
    assert Names.of(["ab", "c"]).digest != Names.of(["a", "bc"]).digest
    assert Names.of(["ab", "c"]).digest == Names.of([b"ab", b"c"]).digest


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 1234])
def test_numbered_names_sort_as_their_numbers(count: int) -> None:
    names = list(Names.numbered(count))
    assert [int(name) for name in names] == list(range(count))
    assert names == sorted(names)


def test_groups_of_first_folders() -> None:
    listed = sorted(["b/1", "a/1", "a/2", "a-b/1", "a.png", "b/c/1", "z.png", "zz.png", "a0/x"], key=str.encode)
    groups = list(Names.of(listed).prefix_groups())
    assert [listed[first:last] for _, first, last in groups] == [
        ["a-b/1"], ["a.png"], ["a/1", "a/2"], ["a0/x"], ["b/1", "b/c/1"], ["z.png"], ["zz.png"],
    ]  # fmt: skip
    assert [folder for folder, _, _ in groups] == ["a-b", "", "a", "a0", "b", "", ""]
