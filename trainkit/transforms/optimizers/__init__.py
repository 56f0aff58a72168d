"""Update rules, from gradient descent to matrix rules and curvature.

Input: hyper-parameters, numbers or schedules. Output: a `Rule`. Read `descent` first.
"""
