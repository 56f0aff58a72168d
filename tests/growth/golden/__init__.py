"""Golden plans: short hashes of what growth proves of every model that its tests know.

`tests/growth/test_golden_plans.py` compares; the files beside this one hold one line a case. After
a change that is meant, write them anew and read what changed:

    python -m tests.growth.golden
    git diff --stat tests/growth/golden

To see what the hashes of one case stand for (say, before and after a change):

    python -m tests.growth.golden zoo gpt all
"""
