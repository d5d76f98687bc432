"""Turns a trained model into files, and publishes only what agrees with the original model."""
