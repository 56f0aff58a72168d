"""Laws of rules that see a matrix as a matrix, claimed or implied by `like`; kernels are [in, out].

Input: a `Subject`. Output: `Violation`s. Read `measures` first.
"""
