"""Transitions: from the state of one stage to the state of the next.

Input: two prepared stages. Output: the grown state and its certificate. `grow` and `shrink` build
a `StateGrowth`, a pure function of the state with its growth map. `switch` compiles, rehearses,
runs and certifies it (`Transition`). Read `state_growth` first.
"""
