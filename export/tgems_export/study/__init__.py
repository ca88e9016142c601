"""The method, measured: every layer, its rivals, one factor at a time, and its certainty.

material    activations, labels and texts, each picture with one purpose
measures    small evaluators that yield names and numbers
variations  one head, as usual or with one thing changed
rivals      classifiers that the method is compared with
plan        the tasks of a study
run         runs them, and keeps what is finished
subject     the subject of a study, as its report states it
figures     figures read from the results: means, differences, an oracle
report      the sections of the report, written to files
noise       the noise of INT8 in the tokens behind every block: a study of its own
reporting/  tables, plots, sentences and pages
"""
