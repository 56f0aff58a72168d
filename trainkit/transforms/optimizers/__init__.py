"""Update rules, from gradient descent to matrix rules and second-order methods.

Input: hyper-parameters, as numbers or schedules. Output: a `Rule`. Read `descent` first.
"""
