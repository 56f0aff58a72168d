"""Transitions: from the state of one stage to the state of the next.

Input: two prepared stages. Output: the grown state, and a record of what was done. `grow` and
`shrink` build a `StateGrowth`, a pure function of the state with its map. `switch` compiles it,
rehearses it, runs it and certifies it (`Transition`). Read `state_growth` first.
"""
