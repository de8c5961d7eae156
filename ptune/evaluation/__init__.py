"""What a run has learnt: figures before and after, answers side by side, a report."""
