"""`top_k` along an axis that grows, and everything that follows the indices that it gives."""
