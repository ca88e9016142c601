"""Where pictures come from: files, folders and globs, with or without class names."""
