"""The formulas of the method, in numpy alone: class-rates, label sets, measures."""
