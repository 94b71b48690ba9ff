"""The command line: verbs, options, pictures and the demo."""
