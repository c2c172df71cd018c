"""Losses of the methods: computed in float32 whatever the precision around them, over the true batch."""
