"""The rules: pure values and pure functions, standard library only, known to every floor above."""
