"""Encoder, decoder, heads, and the model that joins them with a framework."""
