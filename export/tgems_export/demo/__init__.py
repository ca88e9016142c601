"""The built-in CLIP: how it was trained, its weights (`clip/`) and its heads (`heads/`, `heads-190/`).

Nothing of the toolkit imports this package; it is the recipe of one open_clip folder.
"""
