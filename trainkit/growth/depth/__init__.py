"""More layers: which are new, what they hold, and the program without them."""
