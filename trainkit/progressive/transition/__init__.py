"""From one stage to the next.

In: two prepared stages. `grow` and `shrink` find a `StateGrowth`, a pure function of the state with
the map behind it; `switch` compiles it, rehearses it, runs it and certifies it (`Transition`).
Out: the grown state, and what was done. Read `state_growth` first.
"""
