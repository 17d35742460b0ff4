"""Clients of models: what each needs, how it is loaded, and how it is asked. None of them knows a stage."""
