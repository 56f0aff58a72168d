"""What `fit` is given: what of it is refused, and by what a run is known again.

Input: the arguments. Output: errors before anything is written, and an identity as JSON. Read
`validation` first.
"""
