#!/usr/bin/env python3
"""Writes what all-MiniLM-L6-v2 makes of fifty texts: their tokens, and their embeddings.

    scripts/make_minilm_reference.py MODEL-FOLDER OUT-FOLDER

The tokens come from the package `tokenizers` over the model's own tokenizer.json; the embeddings from NumPy over its
safetensors, as Devlin et al. 2018 describe the encoder (the exact GELU of Hendrycks and Gimpel 2016), averaged over all
tokens and not normalised. Neither shares code with llama.cpp, of which a test compares the answers with these.
Writes minilm.json, a list of {"text", "tokens"}, and minilm.f32, the embeddings in the same order, little-endian.
"""

import json
import math
import pathlib
import struct
import sys

import numpy
from tokenizers import Tokenizer

HEADS = 12
LAYERS = 6
EPSILON = 1e-12

SHORT = [
    "Hello",
    "yes",
    "A cat sits on the mat.",
    "How many watts does a server take?",
    "The quick brown fox jumps over the lazy dog!",
    "42",
    "3.14159 is about pi; 2.71828 is about e.",
    "WATTLE IS AN ACACIA",
    "don't, won't, can't",
    "naïve café, Zürich, señor, crème brûlée",
    "Wie viel Strom braucht ein Rechner im Leerlauf?",
    "Combien coûte une réponse en joules ?",
    "電力はいくらですか",
    "今天天气很好",
    "Привет, мир",
    "Γειά σου Κόσμε",
    "emoji 🙂 and 🚀 between words",
    "tabs\tand\nlines\r\n  and   spaces",
    "e-mail: someone@example.com, see https://example.com/a?b=c#d",
    "fn main() { println!(\"{}\", 1 + 1); }",
    "SELECT name FROM models WHERE watts > 5;",
    "antidisestablishmentarianism and pneumonoultramicroscopicsilicovolcanoconiosis",
    "$1,000.00 or €999,99 or £5",
    "C++ and C# and F♯",
    "(parentheses) [brackets] {braces} <angles>",
    "\"quotes\" 'single' “curly” ‘both’ „low“",
    "a",
    "!?",
    # Of more than 100 letters the tokenizer makes [UNK], and llama.cpp as many tokens as are needed.
    "x" * 100,
    "one two three four five six seven eight nine ten",
]

SENTENCES = [
    "The wind farm off the coast delivered more energy in March than in the two months before.",
    "A transformer encodes each token with the help of all the others.",
    "Last year the bakery on the corner closed after sixty years.",
    "Energy is measured in joules, and power in watts, which are joules per second.",
    "She wrote the letter twice and never sent it.",
    "Models that are loaded but idle cost memory, and memory costs power.",
    "The committee could not agree on whether the bridge should be rebuilt.",
    "A radix tree shares what its entries begin with.",
    "Rain fell on the harbour all night, and the boats rose with the tide.",
    "Whoever measures something changes it, though rarely by much.",
]

# Texts of two to eleven sentences, beginning at different ones, and ten of up to 409 tokens.
MIDDLE = [" ".join(SENTENCES[(start + step) % len(SENTENCES)] for step in range(2 + start)) for start in range(10)]
LONG = [" ".join(SENTENCES[(start * 3 + step) % len(SENTENCES)] for step in range(20 + start)) for start in range(10)]


def main():
    model, out = map(pathlib.Path, sys.argv[1:])
    texts = SHORT + MIDDLE + LONG
    assert len(texts) == len(set(texts)) == 50
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    weights = read_safetensors(model / "model.safetensors")
    cases, rows = [], []
    for text in texts:
        tokens = tokenizer.encode(text).ids
        assert len(tokens) <= 512, len(tokens)
        cases.append({"text": text, "tokens": tokens})
        rows.append(encode(weights, tokens).mean(axis=0))
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (out / "minilm.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    (out / "minilm.f32").write_bytes(numpy.asarray(rows, dtype="<f4").tobytes())
    print(f"{len(cases)} texts of {min(map(len_tokens, cases))} to {max(map(len_tokens, cases))} tokens")


def len_tokens(case):
    return len(case["tokens"])


def read_safetensors(path):
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            values = numpy.frombuffer(data[start:end], dtype="<f4").astype("f8")
            weights[name] = values.reshape(entry["shape"])
    return weights


def encode(weights, tokens):
    def dense(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / numpy.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: len(tokens)]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        own = f"encoder.layer.{layer}"
        # [heads, tokens, numbers of a head]
        query, key, value = (
            dense(x, f"{own}.attention.self.{name}").reshape(len(tokens), HEADS, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        scores = numpy.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        attended = (scores @ value).transpose(1, 0, 2).reshape(len(tokens), -1)
        x = norm(x + dense(attended, f"{own}.attention.output.dense"), f"{own}.attention.output.LayerNorm")
        inner = dense(x, f"{own}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + dense(inner, f"{own}.output.dense"), f"{own}.output.LayerNorm")
    return x


erf = numpy.vectorize(math.erf)


if __name__ == "__main__":
    main()
