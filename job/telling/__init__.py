"""What a run says: while it runs, how it ended, and to whom."""
