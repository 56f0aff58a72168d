"""Adapters: from a Flax model, or any other model, to the `loss_fn` of a train step.

Input: a module and a loss. Output: a `Model` of pure functions over pytrees. This is the only
package that imports Flax. Read `model` first.
"""
