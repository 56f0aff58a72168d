"""The measure of what a run survives, in short: what it tries, it tries, and a run survives it."""

import json

from benchmarks.reliability.results import measure, table


def test_a_killed_and_a_damaged_run_end_bitwise_where_the_undisturbed_one_does(tmp_path):
    results = tmp_path / "results.jsonl"
    # As if all but the last two had been made: a kill while a file is written whole, and a newest
    # and an older checkpoint with a bit flipped in each.
    done = [("aimed", seed) for seed in range(8)] + [("corruptions", seed) for seed in range(13)]
    rows = [{"trial": t, "seed": s, "what": "before", "verdict": "equal"} for t, s in done]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    measure({"aimed": 9, "corruptions": 14}, results)
    made = [json.loads(line) for line in results.read_text().splitlines()[len(done) :]]
    assert [(row["trial"], row["seed"], row["verdict"]) for row in made] == [
        ("aimed", 8, "equal"),
        ("corruptions", 13, "equal"),
    ]
    assert "| corruptions | before | 13 | 13 | 0 | 0 | 0 |" in table(results)
