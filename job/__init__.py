"""Trains: from settings and labelled texts to a bag-of-words classifier."""
