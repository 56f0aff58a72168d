"""What trainkit costs, beside what others cost: paired comparisons within one run.

Input: names of parts. Output: rows, printed and written to docs/performance.md. Read `paired`
first; `parts/` has one module for each part, `peers/` the processes that run other libraries.
"""
