"""INT8: which products, with which ranges of their inputs, for which processor, and what it costs.

products     the linear maps of a graph, and the part of the tower that each belongs to
ranges       what their inputs take on real pictures
equalisation outliers moved from activations into weights
recipe       a graph in fp32 and a recipe to a graph in INT8
search       the recipe that changes the answers least, and which parts to spare
"""
