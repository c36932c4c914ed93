"""Text becomes rows a model can learn from: read, clean, mix, render, pack. No torch."""
