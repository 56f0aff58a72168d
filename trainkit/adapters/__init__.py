"""From a model of Flax, or of any library, to the `loss_fn` that a train step takes.

Input: a module and a loss. Output: a `Model` of pure functions over pytrees. The only room that
imports Flax. Read `model` first.
"""
