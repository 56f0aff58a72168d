"""`fit`: the loop around a step, and everything that is opened, written and closed around it."""
