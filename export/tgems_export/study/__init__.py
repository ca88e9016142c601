"""The method, measured: every layer, its rivals, one factor at a time, and how sure it is.

material    activations, labels and texts, each picture with one purpose
measures    small evaluators that yield names and numbers
variations  one head, as usual or with one thing changed
rivals      what it is held against
plan        which tasks a study consists of
run         does them, keeps what is finished
figures     what is read from the results: means, differences, an oracle
wording     how figures and lists are written
tables      figures to tables
plots       figures to pictures
statements  figures to sentences
page        all of these to Markdown, HTML and plain text
report      what stands in which section, and where it is written

noise         what INT8 does to the tokens behind every block, which is a study of its own
noise_report  its figures, tables, plot and sentences
"""
