"""Helpers that every package uses: leaf paths, dtypes, jaxprs, argument checks, versions.

Pure functions of pytrees and options. This package imports no other part of trainkit. Read
`validation/values.py` first.
"""
