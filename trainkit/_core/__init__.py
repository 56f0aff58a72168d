"""Helpers that every package uses: leaf paths, dtypes, jaxprs, argument checks, versions.

Input: pytrees and options. Output: names, checked values, errors. This package imports no other
part of trainkit. Read `validation/values.py` first.
"""
