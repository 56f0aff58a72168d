"""More layers: which are new, what they hold, and the big program without them.

In: the two flat programs with the shapes of their parameters (`Side`), and an operator. Out:
candidates, each a `Deeper` (where every leaf comes from, and two programs of one structure, of
which only widths differ) or a `Conflict`. `origins` aligns layers, by names (`alignment`) or by the
order of reading (`program_order`); `rest` and `identity` prove that new ones do nothing; `cut` and
`stack` take copies and rounds of loops out of the program. Read first: `assemble`.
"""
