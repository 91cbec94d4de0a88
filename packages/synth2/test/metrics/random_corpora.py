"""Writes random-corpora.jsonl: random corpora with the CIDEr-D, BLEU and ROUGE-L that the scorers of pycocoevalcap give.

python3 random_corpora.py FOLDER, where FOLDER holds cider/, bleu/ and rouge/ of pycocoevalcap (for Python 3; needs numpy). A double in
Python, written from the formulas, is held against them.
"""

import json
import math
import random
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path


def grams(words, n):
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def cider_d(pairs):
    images = len(pairs)
    frequency = Counter(g for _, refs in pairs for g in {g for r in refs for n in range(1, 5) for g in grams(r, n)})

    def vector(words, n):
        return {g: tf * (math.log(images) - math.log(max(1, frequency[g]))) for g, tf in grams(words, n).items()}

    def norm(v):
        return math.sqrt(math.fsum(x * x for x in v.values()))

    scores = []
    for hypothesis, references in pairs:
        per_order = []
        for n in range(1, 5):
            h = vector(hypothesis, n)
            sims = []
            for reference in references:
                r = vector(reference, n)
                dot = math.fsum(min(x, r.get(g, 0.0)) * r.get(g, 0.0) for g, x in h.items())
                scale = norm(h) * norm(r)
                delta = max(0, len(hypothesis) - 1) - max(0, len(reference) - 1)
                sims.append((dot / scale if scale else dot) * math.exp(-delta * delta / 72))
            per_order.append(math.fsum(sims) / len(sims))
        scores.append(10 * math.fsum(per_order) / 4)
    return scores


def bleu(pairs):
    out = []
    hypothesis_length = sum(len(h) for h, _ in pairs)
    closest = sum(min((abs(len(r) - len(h)), len(r)) for r in refs)[1] for h, refs in pairs)
    ratio = (hypothesis_length + 1e-15) / (closest + 1e-9)
    product = 1.0
    for n in range(1, 5):
        correct = guessed = 0
        for h, refs in pairs:
            most = Counter()
            for r in refs:
                most |= grams(r, n)
            correct += sum((grams(h, n) & most).values())
            guessed += max(0, len(h) - n + 1)
        product *= (correct + 1e-15) / (guessed + 1e-9)
        out.append(product ** (1 / n) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1))
    return out


def rouge_l(pairs):
    def common(a, b):
        table = {}
        for i in range(len(a) + 1):
            for j in range(len(b) + 1):
                if i == 0 or j == 0:
                    table[i, j] = 0
                elif a[i - 1] == b[j - 1]:
                    table[i, j] = table[i - 1, j - 1] + 1
                else:
                    table[i, j] = max(table[i - 1, j], table[i, j - 1])
        return table[len(a), len(b)]

    square = Fraction(144, 100)
    scores = []
    for h, refs in pairs:
        p = max(Fraction(common(h, r), len(h)) if h else Fraction(0) for r in refs)
        q = max(Fraction(common(h, r), len(r)) if r else Fraction(0) for r in refs)
        scores.append(float((1 + square) * p * q / (q + square * p)) if p and q else 0.0)
    return scores


def reference_scores(pairs):
    from bleu.bleu_scorer import BleuScorer
    from cider.cider_scorer import CiderScorer
    from rouge.rouge import Rouge

    texts = [(" ".join(h), [" ".join(r) for r in refs]) for h, refs in pairs]
    cider, bleu_scorer = CiderScorer(), BleuScorer()
    for h, refs in texts:
        cider += (h, refs)
        bleu_scorer += (h, refs)
    return {
        "cider": [float(score) for score in cider.compute_score()[1]],
        "bleu": bleu_scorer.compute_score(option="closest")[0],
        "rouge": [Rouge().calc_score([h], refs) for h, refs in texts],
    }


def main():
    sys.path.insert(0, sys.argv[1])
    draw = random.Random(20261123)
    lines = []
    for corpus in range(24):
        words = [f"w{i}" for i in range(draw.choice([3, 8, 20]))]
        text = lambda longest: [draw.choice(words) for _ in range(draw.randint(0 if corpus % 3 == 0 else 1, longest))]
        pairs = []
        for _ in range(draw.randint(1, 8)):
            references = [text(9) or ["w0"] for _ in range(draw.randint(1, 4))]
            # Near copies, so that higher orders match too.
            hypothesis = text(9)
            if draw.random() < 0.6:
                hypothesis = [w for w in draw.choice(references) if draw.random() < 0.85]
            pairs.append((hypothesis, references))
        scores = reference_scores(pairs)
        for name, double in (("cider", cider_d), ("bleu", bleu), ("rouge", rouge_l)):
            worst = max(abs(a - b) for a, b in zip(scores[name], double(pairs)))
            if worst > 1e-12:
                raise SystemExit(f"corpus {corpus}: {name} of the double is {worst} off")
        lines.append(
            json.dumps(
                {
                    "pairs": [{"hypothesis": " ".join(h), "references": [" ".join(r) for r in refs]} for h, refs in pairs],
                    **scores,
                }
            )
        )
    Path(__file__).with_name("random-corpora.jsonl").write_text("\n".join(lines) + "\n")


main()
