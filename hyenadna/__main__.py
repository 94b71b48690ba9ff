"""``python -m hyenadna`` is the command ``hyenadna``."""

from hyenadna.cli.main import main

if __name__ == "__main__":
    main()
