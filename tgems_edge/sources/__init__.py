"""Sources of pictures: files, folders and globs, with or without class names."""
