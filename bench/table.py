"""The tables: a line for each program, for each group, and what must not be."""

import math

import catalog

PATIENCE = 1.25  # how far a guest's clock and the host's may be apart before a warning


def geometric_mean(values):
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def number(value, width=9):
    if value is None or math.isnan(value):
        return f"{'-':>{width}}"
    return f"{value:{width}.{2 if value < 100 else 0}f}"


class Table:
    """Collects results, each the best of its rounds, scaled to a program's whole count."""

    def __init__(self, places, clock):
        self.places = places
        self.clock = clock
        self.rows = {}  # program: {place: seconds}
        self.notes = []

    def add(self, program, place, seconds):
        row = self.rows.setdefault(program, {})
        row[place] = min(seconds, row.get(place, math.inf))

    def note(self, program, place, text):
        self.notes.append(f"{program.name} under {place}: {text}")

    def slowdown(self, program, place):
        row = self.rows.get(program, {})
        return row[place] / row["native"] if place in row and "native" in row else math.nan

    def heading(self):
        guests = "".join(f"{place:>10}" for place in self.places[1:])
        return f"{'':22}{'native ms':>10}{guests}" + (f"{'to TCG':>9}" if self.with_tcg() else "")

    def with_tcg(self):
        return "tcg" in self.places

    def to_tcg(self, program):
        return self.slowdown(program, "freehold") / self.slowdown(program, "tcg")

    def line(self, program):
        native = self.rows.get(program, {}).get("native", math.nan) * 1000
        guests = " ".join(number(self.slowdown(program, place)) for place in self.places[1:])
        last = number(self.to_tcg(program), 8) if self.with_tcg() else ""
        return f"{program.name:22}{number(native)}  {guests} {last}".rstrip()

    def mean(self, group, place):
        """A group's mean slowdown, over the programs that ran here and in `place`."""
        values = [self.slowdown(program, place) for program in self.rows if program.group == group]
        return geometric_mean([value for value in values if not math.isnan(value)])

    def group_line(self, group, title, floor):
        mean = self.mean(group, "freehold")
        guests = " ".join(number(self.mean(group, place)) for place in self.places[1:])
        return f"{title:52}{guests} {floor:7.1f}  {verdict(mean <= floor)}"

    def summary(self):
        guests = " ".join(f"{place:>9}" for place in self.places[1:])
        yield f"{'Slowdown against native, geometric means':52}{guests} {'floor':>7}"
        for group, title, floor in catalog.GROUPS:
            if any(program.group == group for program in self.rows):
                yield self.group_line(group, title, floor)

    def slower_than_tcg(self):
        return [f"{program.name} ({self.to_tcg(program):.2f})" for program in self.rows
                if self.to_tcg(program) > 1]

    def kept(self):
        """For JSON."""
        return [{"group": program.group, "name": program.name, "seconds": row}
                for program, row in self.rows.items()]


def verdict(met):
    return "met" if met else "NOT met"


def machines_lines(found, names):
    """Whole machines: seconds, and Freehold's part of TCG's."""
    yield f"{'Seconds':52}" + " ".join(f"{name:>9}" for name in names) + \
        ("   to TCG   floor" if "tcg" in names else "")
    for what, row in found.items():
        line = f"{what:52}" + " ".join(number(row.get(name)) for name in names)
        if "tcg" in row:
            part, floor = row["freehold"] / row["tcg"], catalog.BOOT_FLOORS[what]
            line += f"{part:9.2f} {floor:7.2f}  {verdict(part <= floor)}"
        yield line


def scaling_lines(found):
    """Two busy threads on two virtual CPUs, against two natively."""
    yield "What a second busy CPU adds: the same work twice in the time of once is 1.00"
    if any(native < 0.8 for native, _ in found.values()):
        yield "(not even two threads natively had two CPUs: the host is busy, this says little)"
    for name, (native, guest) in found.items():
        part = guest / native
        yield f"{name:22} natively {native:.2f}, in the guest {guest:.2f}: {part:.2f} of it " \
              f"(floor {catalog.SCALING_FLOOR}: {verdict(part >= catalog.SCALING_FLOOR)})"
