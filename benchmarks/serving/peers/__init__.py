"""The peers' apps and models; each runs in an environment of its own, which has nothing of ours installed."""
