"""Attention modules side by side, and the shipped networks: python -m experiments.attention."""
