#!/usr/bin/python3
"""Checks the layers of src/: an include may only point to a lower rank or into its own folder, and
every header compiles alone (what is included several times, with parameters, is called .inc, not .h).
It first proves on a made-up tree that it notices both."""

import os
import re
import shutil
import subprocess
import sys
import tempfile

RANKS = {"base": 0, "mem": 1, "cpu": 2, "block": 2, "net": 2, "char": 2,
         "dev": 3, "machine": 4, "vm": 5, "cli": 6}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')


def source_files(src, suffixes):
    for folder, _, names in os.walk(src):
        for name in sorted(names):
            if name.endswith(suffixes):
                yield os.path.join(folder, name)


def include_problem(src, path, target):
    """One sentence when `path` may not include `target`, else None."""
    here = os.path.relpath(path, src)
    layer = here.split(os.sep)[0]
    if layer not in RANKS:
        return f"{here}: is in no known layer"
    if not os.path.exists(os.path.join(src, target)):
        if os.path.exists(os.path.join(os.path.dirname(path), target)):
            return f'{here}: "{target}": write the path from src/'
        return None  # generated, or not there: the compiler will say
    other = target.split("/")[0]
    if other == layer or RANKS.get(other, 99) < RANKS[layer]:
        return None
    return f'{here}: "{target}": {layer} may not include {other}'


def include_problems(src):
    problems = []
    for path in source_files(src, (".c", ".h", ".inc", ".S")):
        with open(path, encoding="utf-8") as file:
            for line in file:
                match = INCLUDE.match(line)
                if match:
                    problems.append(include_problem(src, path, match.group(1)))
    return [problem for problem in problems if problem]


def header_problem(compiler, src, path):
    command = compiler + ["-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror",
                          "-Wno-unused", "-fsyntax-only", "-I", src, "-x", "c", "-"]
    source = f'#include "{os.path.relpath(path, src)}"\n'
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    return f"{os.path.relpath(path, src)}: does not stand alone: {errors[0] if errors else '?'}"


def header_problems(compiler, src):
    found = [header_problem(compiler, src, path) for path in source_files(src, (".h",))]
    return [problem for problem in found if problem]


def write(root, name, text):
    path = os.path.join(root, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def self_test(compiler):
    """The made-up tree has one mistake of each kind, and things that look like one but are not."""
    root = tempfile.mkdtemp()
    try:
        write(root, "base/a.h", '#include "mem/m.h"\n')
        write(root, "mem/m.h", '#include "base/b.h"\n#include "mem/n.h"\n#include <stdio.h>\n')
        write(root, "mem/n.h", "int n(void);\n")
        write(root, "base/b.h", "int b(void);\n")
        write(root, "net/n.c", '#include "block/b.h"\n#include "local.h"\n')
        write(root, "net/local.h", "uint8_t undeclared;\n")
        write(root, "block/b.h", "")
        write(root, "odd/o.c", '#include "base/b.h"\n')
        includes, headers = include_problems(root), header_problems(compiler, root)
    finally:
        shutil.rmtree(root)
    want = ['base/a.h: "mem/m.h": base may not include mem',
            'net/n.c: "block/b.h": net may not include block',
            'net/n.c: "local.h": write the path from src/',
            "odd/o.c: is in no known layer"]
    problems = []
    if sorted(includes) != want:
        problems.append(f"self test: includes: got {includes}, want {want}")
    if len(headers) != 1 or "net/local.h" not in headers[0]:
        problems.append(f"self test: headers: got {headers}")
    return problems


def main():
    src = os.path.join(sys.argv[1], "src")
    compiler = os.environ.get("CC", "cc").split()
    failed = 0
    checks = (("self test", lambda: self_test(compiler)),
              ("includes", lambda: include_problems(src)),
              ("headers", lambda: header_problems(compiler, src)))
    for name, check in checks:
        problems = check()
        for problem in problems:
            print(f"{name}: {problem}")
        failed += bool(problems)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
