"""The encoder `photo`: its recipe, and its weights in `clip/`.

recipe         one command from packages to an open_clip folder
image_tower    weights of the image tower, and the joint embedding that its classifier spans
wordnet        nouns: what they are called, what they mean, and what lies above them
names          texts for the text tower to learn, and where each should point
sentences      classes that a name is near, according to a sentence encoder
prompts        names in templates, as tokens
training       the training of the text tower

The modules depend on each other upwards only. Nothing of the toolkit imports this package.
"""
