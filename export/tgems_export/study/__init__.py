"""The method, measured: every layer, its rivals, one factor at a time, and how sure it is.

material    activations, labels and texts, each picture with one purpose
measures    small evaluators that yield names and numbers
variations  one head, as usual or with one thing changed
rivals      what it is held against
plan        which tasks a study consists of
run         does them, keeps what is finished
subject     what the study is of, as far as its report tells it
figures     what is read from the results: means, differences, an oracle
wording     how figures and lists are written
parts       a table, a plot
tables      figures to tables
plots       figures to pictures, which drawing makes SVG of
statements  the figures that each section tells
sentences   templates/statements, filled with them
page        all of these to Markdown, HTML and plain text, by templates
report      what stands in which section, and where it is written

noise         what INT8 does to the tokens behind every block, which is a study of its own
noise_report  its figures, tables, plot and sentences
"""
