"""Texts as features: tokens and n-grams, their vocabulary, and rows in the numbers of the model."""
