"""Public data sets in the layouts that their authors publish, read in place from a folder that the user names."""
