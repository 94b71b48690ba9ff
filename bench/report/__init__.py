"""Tables and plots from the files of finished runs."""
