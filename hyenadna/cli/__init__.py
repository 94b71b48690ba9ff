"""The command line: verbs, options, figures and the demo."""
