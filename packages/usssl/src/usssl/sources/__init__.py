"""Where unlabelled frames come from: readers of five formats, folders of them, and arrays in memory."""
