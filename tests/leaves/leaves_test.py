#!/usr/bin/python3
"""Leaves keep the rule of src/cpu/soft/leaf.h: leaves_test.py FREEHOLD

Translated code calls them while the guest's vector registers are in the host's. So nothing that they
can reach by direct calls may name a vector or x87 register or call a library; the compiler may turn
a loop into memset() at any time. Disassembles the program and follows each leaf.
"""

import re
import subprocess
import sys

ROOTS = re.compile(r"soft_(leaf_\w+|flags_settle)(\.\w+)*$")
FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
VECTOR = re.compile(r"%([xyz]mm\d+|mm\d|st|k[0-7])\b")
TARGET = re.compile(r"\b(?:call|j\w+)\s+[0-9a-f]+ <([^>+]+)(?:\+0x[0-9a-f]+)?>")
# These run handlers of integer.c through soft_op.run, on registers or memory that they have checked.
INDIRECT = {"soft_flags_settle", "source_run"}
# Takes a lock: a walk in a leaf declines before it comes here (paging.c).
NEVER_CALLED = {"soft_code_written"}
EXPECTED = 8  # leaves at least, so that a change of names does not empty this test


def functions_of(program):
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", program], capture_output=True,
                          text=True, check=True).stdout
    functions, lines = {}, []
    for line in text.splitlines():
        match = FUNCTION.match(line)
        if match:
            lines = functions.setdefault(match[1], [])
        else:
            lines.append(line)
    return functions


def faults_of(name, lines):
    for line in lines:
        if VECTOR.search(line):
            yield f"{name} uses a vector register: {line.strip()}"
        if re.search(r"\bcall\s+\*", line) and name.split(".")[0] not in INDIRECT:
            yield f"{name} calls it knows not what: {line.strip()}"
        target = TARGET.search(line)
        if target and "@plt" in target[1]:
            yield f"{name} calls a library: {target[1]}"


def closure_of(roots, functions):
    reached, left = set(), list(roots)
    while left:
        name = left.pop()
        if name in reached or name not in functions or name in NEVER_CALLED:
            continue
        reached.add(name)
        for line in functions[name]:
            target = TARGET.search(line)
            if target:
                left.append(target[1])
    return reached


def main():
    functions = functions_of(sys.argv[1])
    roots = [name for name in functions if ROOTS.match(name)]
    faults = [fault for name in sorted(closure_of(roots, functions))
              for fault in faults_of(name, functions[name])]
    if len(roots) < EXPECTED:
        faults.append(f"only {len(roots)} leaves found")
    if not VECTOR.search("vmovdqu %ymm3,(%rdi)") or not functions.get("main"):
        faults.append("this test sees nothing")
    for fault in faults:
        print("FAIL", fault)
    print(f"{len(roots)} passed, {len(faults)} failed")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
