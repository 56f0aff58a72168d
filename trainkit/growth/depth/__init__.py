"""Depth: which layers of the big model are new, and the big program without them.

Input: the two flat programs with the shapes of their parameters (`FlatModel`), and an operator.
Output: a `DepthCandidate` for each alignment of layers (the origin of every leaf, and two programs
that differ in widths alone), or a `Conflict`. `origins` aligns layers, by name (`alignment`) or by
the order in which parameters are used (`program_order`). `identity_search` and `identity` prove
that new layers are identities; `new_channels` takes out those whose results are concatenated.
`layer_cut` and `shortened_loops` remove layers that are copies.
Read `assembly` first.
"""
