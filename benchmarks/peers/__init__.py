"""Other libraries beside trainkit: their environment, and a process for each side.

Input: the name of a peer, a task as a file of arrays. Output: seconds, measured in the peer's
process. Read `environment` first, then `worker` (our end) and `serving` (theirs).
"""
