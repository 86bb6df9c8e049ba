"""Adopting the original application's tables while it goes on."""
