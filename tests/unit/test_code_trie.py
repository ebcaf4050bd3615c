"""The tree of semantic IDs: what may follow a prefix, who is under a leaf, and other trees made of it."""

from __future__ import annotations

import numpy as np
import pytest

from triptych.recall.code_trie import CodeTrie

LEVELS, NUM_CODES, NUM_ITEMS = 3, 5, 200


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(0).integers(NUM_CODES, size=(NUM_ITEMS, LEVELS)).astype(np.uint16)


def under(trie: CodeTrie) -> dict[tuple[int, ...], list[int]]:
    """Walk the whole tree: ID → items."""
    prefixes = {0: ()}
    for depth in range(trie.levels):
        nodes = np.array(sorted(prefixes), dtype=np.int64)
        found = trie.children(nodes, depth=depth)
        prefixes = {
            node: (*prefixes[nodes[parent]], code)
            for parent, code, node in zip(found.parent.tolist(), found.code.tolist(), found.node.tolist(), strict=True)
        }
    return {path: trie.items(leaf).tolist() for leaf, path in prefixes.items()}


def grouped(codes, rows) -> dict[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for row in sorted(rows):
        found.setdefault(tuple(codes[row].tolist()), []).append(row)
    return found


def test_it_holds_the_ids_that_exist_and_no_others(codes):
    trie = CodeTrie.build(codes)
    assert under(trie) == grouped(codes, range(NUM_ITEMS))
    assert (trie.num_items, trie.num_leaves) == (NUM_ITEMS, len(grouped(codes, range(NUM_ITEMS))))
    for leaf in range(trie.num_leaves):
        assert {tuple(codes[row]) for row in trie.items(leaf)} == {tuple(trie.code_path(leaf))}


def test_children_of_some_nodes_in_any_order(codes):
    trie = CodeTrie.build(codes)
    nodes = np.array([3, 0, 3])
    found = trie.children(nodes, depth=1)
    for place, node in enumerate(nodes):
        own = np.unique(codes[codes[:, 0] == node, 1])
        np.testing.assert_array_equal(found.code[found.parent == place], own)


def test_a_part_of_the_items(codes):
    keep = np.random.default_rng(1).random(NUM_ITEMS) < 0.2
    assert under(CodeTrie.build(codes).only(keep)) == grouped(codes, np.flatnonzero(keep).tolist())
    assert under(CodeTrie.build(codes).only(np.zeros(NUM_ITEMS, dtype=bool))) == {}


def test_items_come_and_go(codes):
    trie = CodeTrie.build(codes[:150])
    gone = np.array([3, 7, 149, 500])
    changed = codes.copy()
    changed[10] = codes[20]
    trie = trie.without(gone).with_items(changed[[10, 160]], item_rows=np.array([10, 160]))
    rows = (set(range(150)) | {160}) - set(gone.tolist())
    assert under(trie) == grouped(changed, rows)
    assert under(trie.without(np.array(sorted(rows)))) == {}
    assert under(trie.without(np.array(sorted(rows))).with_items(codes[:2], item_rows=np.arange(2))) == grouped(
        codes, [0, 1]
    )


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_additions_and_removals_are_as_if_built_anew(levels):
    """Few distinct IDs, of which many are shared, with codes of one byte and of two, zeros among them."""
    rng = np.random.default_rng(levels)
    told = np.array([0, 1, 255, 256, 65_535])
    own, trie = {}, CodeTrie.build(np.empty((0, levels), int))
    for number in [0, 1, 30, 1, 0, 7, 40, 1]:
        rows = rng.choice(100, number, replace=False)
        codes = told[rng.integers(len(told), size=(number, levels))]
        gone = rng.choice(100, 5, replace=False)
        trie = trie.without(gone).with_items(codes, item_rows=rows)
        own = {row: code for row, code in own.items() if row not in gone} | dict(zip(rows.tolist(), codes, strict=True))
        expected = CodeTrie.build(np.array([*own.values()]).reshape(-1, levels), item_rows=np.array([*own], dtype=int))
        assert under(trie) == under(expected)
        np.testing.assert_array_equal(trie.codes_by_row(), expected.codes_by_row())
        np.testing.assert_array_equal(trie._item_rows, expected._item_rows)


def test_codes_of_any_size_are_told_apart():
    codes = np.array([[65_535, 0], [0, 65_535], [65_535, 65_535]])
    assert sorted(under(CodeTrie.build(codes))) == [(0, 65_535), (65_535, 0), (65_535, 65_535)]


def test_the_id_of_each_row_is_known_also_of_what_was_taken_out():
    trie = CodeTrie.build(np.array([[1, 2], [0, 3], [1, 2]]), item_rows=np.array([4, 0, 2]))
    own = trie.codes_by_row()
    assert own.tolist() == [[0, 3], [-1, -1], [1, 2], [-1, -1], [1, 2]]
    grown = trie.without(np.array([4])).with_items(np.array([[7, 7]]), item_rows=np.array([6]))
    assert grown.codes_by_row()[4].tolist() == [-1, -1]
    assert grown.codes_by_row(beside=own).tolist() == [*own.tolist(), [-1, -1], [7, 7]]
    assert CodeTrie.build(np.empty((0, 2), int)).codes_by_row().shape == (0, 2)
