"""Tables, plots, sentences and pages of a study.

wording       figures and lists as they are written
parts         a table, a plot
tables/       figures to tables
plots         figures to pictures, which `drawing` makes SVG of
statements    figures of each section, for sentences
sentences     templates/statements, filled with them
page          all of these to Markdown, HTML and plain text, by templates
noise_report  the report of the study of noise
"""
