"""What all measurements share: clocks, memory, the machine, files and number formats."""
