"""Where artifacts live: what a store is, the cache, and the readers of both."""
