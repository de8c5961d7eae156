"""`python -m ptune`"""

from ptune.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
