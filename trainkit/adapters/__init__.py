"""From models of Flax to pure functions: the only room that imports Flax."""
