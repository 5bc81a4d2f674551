"""Times of a model beside its float baseline: calls in turns, and what their ratios say."""
