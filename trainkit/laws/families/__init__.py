"""The laws of transformations, a folder for each heading of a report and a file for each family.

In: a `Subject`. Out: what is wrong with it, as `Violation`s. Each file ends in its `LAWS`; `order`
lists them all. Read `protocol/structure` first: it is the plainest.
"""
