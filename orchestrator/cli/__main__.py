"""`python -m orchestrator.cli` is `edgectl`."""

from orchestrator.cli.main import main

if __name__ == "__main__":
    main()
