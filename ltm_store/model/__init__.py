"""Frozen types by subject: what callers hand in and get back."""
