"""Partitions of a directed acyclic graph into blocks that form no cycle either."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import networkx as nx

from dnnsplit.graph.layers import LayerGraph

Block = tuple[str, ...]


def quotient(blocks: Sequence[Block], edges: Iterable[tuple[str, str]]) -> nx.DiGraph[int]:
    """Return the graph of the blocks, by position: an edge where one leads from a node of the first to one of the second."""
    of = {node: i for i, block in enumerate(blocks) for node in block}
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(range(len(blocks)))
    graph.add_edges_from((of[a], of[b]) for a, b in edges if of[a] != of[b])
    return graph


def sorted_blocks(blocks: Sequence[Block], edges: Iterable[tuple[str, str]], order: Sequence[str]) -> list[Block]:
    """Sort the nodes of each block by `order`, and blocks that form no cycle topologically, else by their first nodes."""
    position = {node: i for i, node in enumerate(order)}
    blocks = [tuple(sorted(block, key=position.__getitem__)) for block in blocks]
    return [blocks[i] for i in nx.lexicographical_topological_sort(quotient(blocks, edges), key=lambda i: position[blocks[i][0]])]


def finest_common(partitions: Iterable[Iterable[Block]], edges: Sequence[tuple[str, str]], order: Sequence[str]) -> list[Block]:
    """Join partitions: return the finest one whose blocks form no cycle and hold every given block as a whole.

    Blocks that share a node are joined; blocks of the result that lie on a cycle are joined too, since splitting one of
    them would cut a given block. Each partition holds every node at most once; `order` is all nodes in topological order, as the
    blocks that are returned are.
    """
    groups = nx.utils.UnionFind(order)
    for block in (block for partition in partitions for block in partition):
        groups.union(*block)
    joined = [tuple(group) for group in groups.to_sets()]
    for tangled in nx.strongly_connected_components(quotient(joined, edges)):
        for a, b in pairwise(tangled):
            groups.union(joined[a][0], joined[b][0])
    return sorted_blocks([tuple(group) for group in groups.to_sets()], edges, order)


def components(graph: LayerGraph, assignment: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the layers of each part, in an order in which the parts can run.

    Layers of one (server, level) that no tensor connects are parts of their own: none waits for what it does not need.
    """
    level: dict[str, int] = {}
    for name in graph.topological:
        before = [level[p] + (assignment[p] != assignment[name]) for p in graph.digraph.predecessors(name)]
        level[name] = max(before, default=0)
    together: nx.Graph[str] = nx.Graph()
    together.add_nodes_from(graph.layer_names)
    together.add_edges_from((a, b) for a, b in graph.digraph.edges if assignment[a] == assignment[b] and level[a] == level[b])
    position = graph.topological_index
    groups = [tuple(sorted(group, key=position.__getitem__)) for group in nx.connected_components(together)]
    return sorted(groups, key=lambda group: (level[group[0]], position[group[0]]))
