"""The stages of the chain: a folder per kind, one backend a file."""
