"""Automatic speech recognition: characters and CTC."""
