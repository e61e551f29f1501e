"""Takes out of an installation what only a GPU needs, for the CPU image: `python prune_cuda.py SITE_PACKAGES`.

The locked torch is the one with CUDA, whose libraries are linked to CUDA's: without those `import torch` fails. But
the loader asks only for the ones that it names; the rest (Triton's compiler, cuDNN's engines, NVSHMEM, headers, static
libraries) is opened when a GPU computes. So this keeps every library that torch's own need, directly or through
others, and removes what else lies in `nvidia` and `triton`. Standard library only.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

LOADED = ("libtorch_global_deps.so", "libtorch_python.so")
"""What `import torch` loads; others of torch's libraries, such as libtorch_cuda_linalg.so, wait for a GPU."""


def main(site_packages: Path) -> None:
    """Prunes, and says how much that was."""
    before = size_bytes(site_packages)
    kept = needed(site_packages)
    for path in sorted((site_packages / "nvidia").rglob("*")):
        if path.is_file() and path.resolve() not in kept and not path.name.endswith(".py"):
            path.unlink()
    shutil.rmtree(site_packages / "triton", ignore_errors=True)
    after = size_bytes(site_packages)
    print(f"{site_packages}: {before >> 20} MiB before, {after >> 20} MiB after")


def needed(site_packages: Path) -> set[Path]:
    """Finds the libraries of CUDA that torch's need, as the loader resolves them.

    Raises ValueError where torch is not installed.
    """
    found: set[Path] = set()
    for name in LOADED:
        library = site_packages / "torch" / "lib" / name
        if not library.exists():
            raise ValueError(f"{library} is not there; install the locked torch first")
        listed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=False).stdout
        found |= {Path(place).resolve() for place in re.findall(r"=> (\S*/nvidia/\S+)", listed)}
    return found


def size_bytes(folder: Path) -> int:
    """Adds up the files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
