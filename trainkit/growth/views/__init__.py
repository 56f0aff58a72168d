"""What else a plan tells: µP, pruning, activations, and the certificate."""
