"""Rules for `top_k` along an axis that grows, and for the equations that use its indices.

Input and output are those of other rules. `selection` is `top_k` itself, `index_arithmetic` moves
and compares indices, `gather_scatter` reads and writes at them, and `one_hot` follows their one-hot
encoding. Read `analysis/values.py` (`Pick`, `Match`) first, then `selection`.
"""
