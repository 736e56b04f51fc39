/*
 * The DSDT of the board `pc`: what an operating system can't find by probing. Built by iasl.
 * Numbers are those of machine/memmap.h, acpi_pm.h and the fixed ports of the board. What differs
 * from VM to VM acpi.c writes into the buffer CONF: the 64-bit PCI window's base (offset 0) and
 * length (8), and which COM ports exist (16; bit 0: COM1). It is a buffer because firmware's own
 * small parsers know neither External nor 64-bit integers. The processors are in an SSDT.
 */
DefinitionBlock ("dsdt.aml", "DSDT", 2, "FREEHD", "FREEHOLD", 0x00000001)
{
    Name (CONF, Buffer ()
    {
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF
    })

    Name (\_S3, Package () { 1, 1, 0, 0 })
    Name (\_S5, Package () { 5, 5, 0, 0 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)

            Name (WIN, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0x0000, 0x0000, 0x00FF, 0x0000, 0x0100)
                IO (Decode16, 0x0CF8, 0x0CF8, 0x01, 0x08)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0000, 0x0CF7, 0x0000, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0x0000, 0x0D00, 0xFFFF, 0x0000, 0xF300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
                    0x00000000, 0x000A0000, 0x000BFFFF, 0x00000000, 0x00020000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0x00000000, 0xC0000000, 0xDFFFFFFF, 0x00000000, 0x20000000)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0x00000000, 0xF0000000, 0xFEBFFFFF, 0x00000000, 0x0EC00000)
            })
            Name (WI64, ResourceTemplate ()
            {
                QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadWrite,
                    0x0000000000000000, 0x0000000100000000, 0x00000001FFFFFFFF,
                    0x0000000000000000, 0x0000000100000000, , , Q64)
            })

            Method (_CRS, 0, Serialized)
            {
                CreateQWordField (CONF, 0, BASE)
                CreateQWordField (CONF, 8, SIZE)
                If (SIZE == 0)
                {
                    Return (WIN)
                }
                CreateQWordField (WI64, \_SB.PCI0.Q64._MIN, MIN)
                CreateQWordField (WI64, \_SB.PCI0.Q64._MAX, MAX)
                CreateQWordField (WI64, \_SB.PCI0.Q64._LEN, LEN)
                MIN = BASE
                LEN = SIZE
                MAX = BASE + SIZE - 1
                Return (ConcatenateResTemplate (WIN, WI64))
            }

            /* INTA-INTD of slot n go to GSI 16 + (n + pin) % 4. */
            Name (PRTP, Package (128) {})
            Name (PRTE, Package (4) { 0, 0, 0, 0 })
            Method (_PRT, 0, Serialized)
            {
                Local0 = 0
                While (Local0 < 128)
                {
                    Local1 = Local0 >> 2
                    Local2 = Local0 & 3
                    PRTE [0] = (Local1 << 16) | 0xFFFF
                    PRTE [1] = Local2
                    PRTE [2] = 0
                    PRTE [3] = 16 + ((Local1 + Local2) & 3)
                    PRTP [Local0] = PRTE
                    Local0++
                }
                Return (PRTP)
            }

            /* The system may have every PCI Express feature it asks for. */
            Method (_OSC, 4, Serialized)
            {
                CreateDWordField (Arg3, 0, STAT)
                If (Arg0 == ToUUID ("33DB4D5B-1FF7-401C-9657-7441C03DD766"))
                {
                    If (Arg1 != 1)
                    {
                        STAT |= 8 // unknown revision
                    }
                    Return (Arg3)
                }
                STAT |= 4 // unknown UUID
                Return (Arg3)
            }

            Device (RTC)
            {
                Name (_HID, EisaId ("PNP0B00"))
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x0070, 0x0070, 0x01, 0x02)
                    IRQNoFlags () { 8 }
                })
            }

            Device (KBD)
            {
                Name (_HID, EisaId ("PNP0303"))
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x0060, 0x0060, 0x01, 0x01)
                    IO (Decode16, 0x0064, 0x0064, 0x01, 0x01)
                    IRQNoFlags () { 1 }
                })
            }

            /* The status of the COM port with that bit. */
            Method (STAC, 1, Serialized)
            {
                CreateByteField (CONF, 16, COMM)
                If (COMM & Arg0)
                {
                    Return (0x0F)
                }
                Return (0)
            }

            Device (COM1)
            {
                Name (_HID, EisaId ("PNP0501"))
                Name (_UID, 1)
                Method (_STA, 0, NotSerialized)
                {
                    Return (STAC (0x01))
                }
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x03F8, 0x03F8, 0x01, 0x08)
                    IRQNoFlags () { 4 }
                })
            }

            Device (COM2)
            {
                Name (_HID, EisaId ("PNP0501"))
                Name (_UID, 2)
                Method (_STA, 0, NotSerialized)
                {
                    Return (STAC (0x02))
                }
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x02F8, 0x02F8, 0x01, 0x08)
                    IRQNoFlags () { 3 }
                })
            }

            Device (COM3)
            {
                Name (_HID, EisaId ("PNP0501"))
                Name (_UID, 3)
                Method (_STA, 0, NotSerialized)
                {
                    Return (STAC (0x04))
                }
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x03E8, 0x03E8, 0x01, 0x08)
                    IRQNoFlags () { 4 }
                })
            }

            Device (COM4)
            {
                Name (_HID, EisaId ("PNP0501"))
                Name (_UID, 4)
                Method (_STA, 0, NotSerialized)
                {
                    Return (STAC (0x08))
                }
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x02E8, 0x02E8, 0x01, 0x08)
                    IRQNoFlags () { 3 }
                })
            }

            /* The panic device, as guests know it by QEMU's pvpanic. */
            Device (PEVT)
            {
                Name (_HID, "QEMU0001")
                Name (_CRS, ResourceTemplate ()
                {
                    IO (Decode16, 0x0505, 0x0505, 0x01, 0x01)
                })
            }
        }

        Device (HPET)
        {
            Name (_HID, EisaId ("PNP0103"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadOnly, 0xFED00000, 0x00000400)
            })
        }

        /* ECAM and the fixed ports: taken, so that no driver gets them. */
        Device (MBRD)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x10000000)
                IO (Decode16, 0x0402, 0x0402, 0x01, 0x01)
                IO (Decode16, 0x0600, 0x0600, 0x01, 0x40)
            })
        }

        Device (FWCF)
        {
            Name (_HID, "QEMU0002")
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0510, 0x0510, 0x01, 0x0C)
            })
        }
    }
}
