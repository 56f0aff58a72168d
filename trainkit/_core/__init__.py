"""What every room uses, and what knows none of them.

Names of leaves (`paths`), dtypes, refusals (`validation`), the files of a run and the versions that
it was made with. Pure functions of trees and options. Read `validation/values.py` first.
"""
