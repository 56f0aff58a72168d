"""Laws of devices, saved states, injected hyper-parameters and growth.

Input: a `Subject`. Output: `Violation`s. Read `devices` first.
"""
