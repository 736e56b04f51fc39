"""Random work on a SQLite database beside the same work on a dict: both must always agree.

Prints checksums that depend on the seed alone.
"""

import hashlib
import random
import sqlite3
import sys

ROUNDS = 60
STEPS = 400


class Pair:
    """The database and the dict that it must be equal to: key to (text, number, blob)."""

    def __init__(self, rng):
        self.rng = rng
        self.rows = {}
        self.database = sqlite3.connect("work.db", isolation_level=None)
        run = self.database.execute
        run(f"pragma journal_mode={rng.choice(('wal', 'delete', 'truncate'))}")
        run("pragma synchronous=normal")
        run("pragma cache_size=50")
        run("create table t(key integer primary key, text text, number real, blob blob)")
        run("create index by_text on t(text, number)")
        run("create index by_number on t(number) where number > 0")

    def row(self):
        rng = self.rng
        text = "".join(rng.choices("abcdefghäöü漢", k=rng.randrange(0, 60)))
        return text, rng.choice((rng.gauss(0, 1e6), float(rng.randrange(-50, 50)))), \
            rng.randbytes(rng.choice((0, 10, 100, 6000)))

    def step(self):
        key, row = self.rng.randrange(4000), self.row()
        kind = self.rng.random()
        if kind < 0.6:
            self.database.execute("insert or replace into t values(?,?,?,?)", (key, *row))
            self.rows[key] = row
        elif kind < 0.8:
            self.database.execute("delete from t where key=?", (key,))
            self.rows.pop(key, None)
        else:
            self.database.execute("update t set number=number*2+1, text=upper(text) "
                                  "where key between ? and ?", (key, key + 20))
            for other in range(key, key + 21):
                if other in self.rows:
                    text, number, blob = self.rows[other]
                    # SQLite's own upper() knows ASCII alone.
                    text = "".join(c.upper() if c < "\x80" else c for c in text)
                    self.rows[other] = text, number * 2 + 1, blob

    def round(self):
        before = dict(self.rows)
        self.database.execute("begin")
        for _ in range(STEPS):
            self.step()
        if self.rng.random() < 0.2:
            self.database.execute("rollback")
            self.rows = before
        else:
            self.database.execute("commit")

    def check(self):
        run = self.database.execute
        assert run("pragma integrity_check").fetchall() == [("ok",)]
        seen = {key: row for key, *row in run("select * from t")}
        assert {key: tuple(row) for key, row in seen.items()} == self.rows
        order = run("select key from t order by number, text, key").fetchall()
        want = sorted(self.rows, key=lambda k: (self.rows[k][1], self.rows[k][0].encode(), k))
        assert [key for key, in order] == want
        groups = run("select length(text), count(*), max(number) from t group by 1").fetchall()
        for length, count, highest in groups:
            numbers = [row[1] for row in self.rows.values() if len(row[0]) == length]
            assert (len(numbers), max(numbers)) == (count, highest)
        return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()[:16]


def main():
    pair = Pair(random.Random(int(sys.argv[1])))
    for number in range(ROUNDS):
        pair.round()
        if number % 10 == 9:
            print(number, pair.check())
    pair.database.execute("vacuum")
    print("vacuum", pair.check())


main()
