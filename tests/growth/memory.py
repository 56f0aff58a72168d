"""What a compiled program needs at its peak, as XLA counts it."""

import jax


def size(tree):
    return [x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)]


def peak(compiled):
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
