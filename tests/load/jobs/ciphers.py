"""Every digest and cipher of openssl's command on data of many lengths, and keys made and used.

Prints checksums that depend on the seed alone. Keys are random; what they sign must verify.
"""

import hashlib
import random
import subprocess
import sys

LENGTHS = (0, 1, 15, 16, 17, 63, 64, 65, 255, 256, 1000, 4096, 65537, 300001)
KEYS = (("RSA", "rsa_keygen_bits:2048"), ("EC", "ec_paramgen_curve:P-256"),
        ("EC", "ec_paramgen_curve:P-521"), ("ED25519", None), ("ED448", None))


def openssl(*arguments, data=b""):
    done = subprocess.run(["openssl", *arguments], input=data, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"openssl {arguments}: {done.stderr.decode()}")
    return done.stdout


def names(kind):
    return sorted({name.lstrip("-") for name in openssl("list", f"-1", kind).decode().split()})


def digests(rng):
    for name in names("-digest-commands"):
        total = hashlib.sha256()
        for length in LENGTHS:
            data = rng.randbytes(length)
            seen = openssl("dgst", f"-{name}", "-r", data=data).split()[0]
            if name in hashlib.algorithms_available and not name.startswith("shake"):
                assert hashlib.new(name, data).hexdigest().encode() == seen, (name, length)
            total.update(seen)
        print(name, total.hexdigest()[:16])


def ciphers(rng):
    for name in names("-cipher-commands"):
        if name in ("base64", "zlib", "brotli", "zstd"):
            continue
        total = hashlib.sha256()
        for length in LENGTHS:
            data = rng.randbytes(length)
            code = ["enc", f"-{name}", "-pbkdf2", "-iter", "10", "-S", rng.randbytes(8).hex(),
                    "-k", rng.randbytes(8).hex(), "-provider", "legacy", "-provider", "default"]
            secret = openssl(*code, data=data)
            assert openssl(*code, "-d", data=secret) == data, (name, length)
            total.update(secret)
        print(name, total.hexdigest()[:16])


def keys(rng):
    with open("text", "wb") as file:
        file.write(rng.randbytes(10000))
    for kind, option in KEYS:
        openssl("genpkey", "-algorithm", kind, "-out", "key",
                *(["-pkeyopt", option] if option else []))
        openssl("pkey", "-in", "key", "-pubout", "-out", "public")
        for _ in range(5):
            openssl("pkeyutl", "-sign", "-inkey", "key", "-rawin", "-in", "text", "-out", "sig")
            openssl("pkeyutl", "-verify", "-pubin", "-inkey", "public", "-rawin", "-in", "text",
                    "-sigfile", "sig")
        print(kind, "verified")


def main():
    rng = random.Random(int(sys.argv[1]))
    digests(rng)
    ciphers(rng)
    keys(rng)


main()
