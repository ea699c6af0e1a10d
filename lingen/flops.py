"""The command `python -m lingen.flops`: FLOPs of LinGen and DiT by formula (see lingen/model/flops.py)."""

from lingen.model.flops import main

if __name__ == "__main__":
    main()
