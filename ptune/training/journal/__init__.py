"""What a training says of itself: metrics, the display, samples, the model card."""
