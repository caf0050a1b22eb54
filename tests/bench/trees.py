"""Trees from a seed."""

import os
import random
import tarfile


def flat_files(directory, count, size=512, seed=1):
    """`count` files of `size` random bytes, a hundred a directory."""
    generator = random.Random(seed)
    for first in range(0, count, 100):
        below = os.path.join(directory, f"d{first // 100:05d}")
        os.makedirs(below, exist_ok=True)
        for i in range(first, min(first + 100, count)):
            with open(os.path.join(below, f"f{i:06d}"), "wb") as out:
                out.write(generator.randbytes(size))


def wordpress_tar(path, seed=1):
    """A tar shaped like WordPress: 1,835 files, 193 directories, 43 MB; half compressible text."""
    generator = random.Random(seed)
    files, directories, total = 1835, 193, 43_000_000
    names = ["wordpress"]
    while len(names) < directories:
        parent = generator.choice(names[-60:])
        if parent.count("/") < 6:
            names.append(f"{parent}/{generator.choice(['wp', 'js', 'css', 'inc'])}-{len(names)}")
    weights = [generator.lognormvariate(0, 1.6) for _ in range(files)]
    scale = total / sum(weights)
    words = [generator.randbytes(generator.randint(2, 9)).hex().encode() for _ in range(500)]
    with tarfile.open(path, "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1700000000
            tar.addfile(entry)
        for i, weight in enumerate(weights):
            size = max(1, int(weight * scale))
            if i % 2:
                data = generator.randbytes(size)
            else:
                data = b" ".join(generator.choices(words, k=size // 8 + 1))[:size]
                data = data.ljust(size, b"\n")
            name = f"{generator.choice(names)}/file-{i}.php"
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = size, 0o644, 1700000000 + i
            temporary = path + ".member"
            with open(temporary, "wb") as out:
                out.write(data)
            with open(temporary, "rb") as member:
                tar.addfile(entry, member)
    os.unlink(temporary)
