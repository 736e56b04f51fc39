"""Makes Multiboot 1 kernels of a few bytes of 32-bit code (Multiboot Specification 0.6.96, 3.1)."""

import struct

LOAD_ADDRESS = 0x100000
MAGIC = 0x1BADB002


def kernel(code):
    """An ELF image for i386 with one segment: the Multiboot header, then the code."""
    header = struct.pack("<III", MAGIC, 0, -MAGIC & 0xFFFFFFFF)
    body = header + code
    entry = LOAD_ADDRESS + len(header)
    elf = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\x01\x01\x01", 2, 3, 1, entry, 52, 0, 0,
                      52, 32, 1, 0, 0, 0)
    offset = 4096
    segment = struct.pack("<IIIIIIII", 1, offset, LOAD_ADDRESS, LOAD_ADDRESS, len(body), len(body),
                          5, 4096)
    image = elf + segment
    return image + bytes(offset - len(image)) + body


def out_byte(port, value):
    """mov value, %al; mov port, %dx; out %al, %dx; then wait for ever."""
    return struct.pack("<BBHHB", 0xB0, value, 0xBA66, port, 0xEE) + b"\xf4\xeb\xfd"


# lidt with a limit of 0 (the six zero bytes behind the code), then int3: no gate for it, none for
# the general protection fault, none for the double fault.
TRIPLE_FAULT = b"\xe8\x00\x00\x00\x00\x58\x0f\x01\x58\x06\xcc" + bytes(6)
