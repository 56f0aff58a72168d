"""One stage of a progressive run: its model, data, trigger, learning rate and compiled programs.

Input: a `Stage`, and the settings that all stages share (`prepared.Recipe`). Output: a
`PreparedStage` with its step, data, evaluation and state shapes. `triggers` decides when a stage
ends. Read `stage` first, then `prepared`.
"""
