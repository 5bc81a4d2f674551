"""The logits of padding; this module imports nothing, since readers of tables need no torch."""

from __future__ import annotations

# In models that have logits for every token. The Trainer pads logits with the same number. Padding has, in effect, no
# probability.
PADDING = -100.0
