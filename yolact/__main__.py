"""`python -m yolact`: the command, also as torchrun and `accelerate launch` start it."""

from yolact.cli import main

if __name__ == "__main__":
    main()
