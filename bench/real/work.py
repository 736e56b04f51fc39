# What Python programs do: dictionaries, text, objects, JSON, regular expressions.
import json
import re
import zlib


class Word:
    def __init__(self, text):
        self.text = text
        self.count = 0

    def seen(self):
        self.count += 1
        return self.count


text = open("/tmp/text", encoding="latin-1").read(1_200_000)
words = {}
for match in re.finditer(r"[A-Za-z_]+", text):
    word = match.group()
    words.setdefault(word, Word(word)).seen()
best = sorted(words.values(), key=lambda word: (-word.count, word.text))
packed = json.dumps([[word.text, word.count] for word in best])
primes = [n for n in range(2, 8000) if all(n % d for d in range(2, int(n ** 0.5) + 1))]
print(len(words), zlib.crc32(packed.encode()), len(json.loads(packed)), sum(primes))
print("".join(reversed([word.text for word in best[:20]])))
