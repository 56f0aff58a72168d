"""Stub."""
DEVICES, PEERS, CASES = 1, False, {}
