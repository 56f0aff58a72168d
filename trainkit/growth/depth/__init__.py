"""Depth: which layers of the big model are new, and the big program without them.

Input: the two flat programs with the shapes of their parameters (`FlatModel`), and an operator.
Output: a `DepthCandidate` for each alignment of layers (the origin of every leaf, and two programs
that differ in widths alone), or a `Conflict`. `origins` aligns layers: `alignment` by names,
`matching` by what the programs compute, `program_order` by the order of use (for copies alone).
`pass_through` guesses how new layers are identities, which `identity_search` proves; `new_leaves`
says what they hold; `new_channels` takes out those whose results are concatenated. `layer_cut`
removes copies, and `loops` has what is particular to loops. Read `assembly` first.
"""
