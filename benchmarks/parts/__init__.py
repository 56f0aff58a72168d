"""The parts of the benchmark: a module each, whose `CASES` are functions `Effort -> rows`.

Input: an `Effort`. Output: an iterator of `Row`s for each case. The first line of a module's
docstring is its help; a CPU simulates `DEVICES` devices, and `PEERS` says whether other libraries
take part. Read `step` first.
"""

# What `make bench` measures, and what is measured on request because it takes long or needs a GPU.
PARTS = ("step", "training", "update", "growth", "saving", "laws", "scaling")
ON_REQUEST = ("spike", "stall", "gate", "gpu")
