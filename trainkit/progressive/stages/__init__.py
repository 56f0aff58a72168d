"""One stage of a growing run: what is trained, on what, until when, and made ready to train.

Input: a `Stage`, and what all stages share (`prepared.Recipe`). Output: a `PreparedStage`, with
its step, data, evaluation and the shapes of its states. Read `stage` first, then `prepared`.
"""
