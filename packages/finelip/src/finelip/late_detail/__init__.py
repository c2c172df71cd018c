"""Generated scenes whose captions tell them apart only after token 77."""
