"""A running endpoint of the Open Inference Protocol: its client, and the check that it serves a bundle."""
