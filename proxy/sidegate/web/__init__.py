"""The doors: from bytes to a verdict and back."""
