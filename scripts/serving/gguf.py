"""Writes language models of random weights: the shape of a real one, and words of no meaning.

    scripts/serving/gguf.py FILE [--shape smollm|tiny|thinking|long] [--seed 0]

The weights are Q8_0 (a scale and 32 small whole numbers), drawn as such. Tokens are GPT-2's 256 bytes, a beginning, an
end, and words of letters that no text is read as, so that a text has as many tokens as bytes, and an answer reads as text.
Needs numpy. Source of the format: ggml's docs/gguf.md.
"""

import argparse
import pathlib
import struct

import numpy

ALIGNMENT = 32
F32, Q8_0 = 0, 8
TINY = dict(layers=2, width=64, heads=4, heads_kv=2, inner=128, vocabulary=512, context=2048)
SHAPES = {
    # SmolLM-135M: https://huggingface.co/HuggingFaceTB/SmolLM-135M/blob/main/config.json
    "smollm": dict(layers=30, width=576, heads=9, heads_kv=3, inner=1536, vocabulary=49152, context=2048),
    "tiny": TINY,
    "thinking": {**TINY, "thinks": True},
    "long": {**TINY, "context": 32768},
}
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Answers begin in the midst of thoughts, which are left out where they are read again.
THINKING = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
THINKING = THINKING.replace("assistant\\n", "assistant\\n<think>\\n")


def write(path, shape="smollm", seed=0):
    """Writes a model, the same one for the same shape and seed."""
    shape = SHAPES[shape]
    random = numpy.random.Generator(numpy.random.PCG64(seed))
    width, head = shape["width"], shape["width"] // shape["heads"]
    kv, inner = head * shape["heads_kv"], shape["inner"]
    tensors = [("token_embd.weight", (width, shape["vocabulary"]), Q8_0), ("output_norm.weight", (width,), F32)]
    for layer in range(shape["layers"]):
        tensors += [
            (f"blk.{layer}.{name}.weight", dimensions, Q8_0 if len(dimensions) == 2 else F32)
            for name, dimensions in [
                ("attn_norm", (width,)), ("attn_q", (width, width)), ("attn_k", (width, kv)), ("attn_v", (width, kv)),
                ("attn_output", (width, width)), ("ffn_norm", (width,)), ("ffn_gate", (width, inner)),
                ("ffn_up", (width, inner)), ("ffn_down", (inner, width)),
            ]
        ]  # fmt: skip
    metadata = describe(shape)
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)) + b"".join(metadata)
    offset = 0
    for name, dimensions, kind in tensors:
        header += text(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        header += struct.pack("<IQ", kind, offset)
        offset += padded(size(dimensions, kind))
    with open(path, "wb") as file:
        file.write(header.ljust(padded(len(header)), b"\0"))
        for _, dimensions, kind in tensors:
            data = draw(random, dimensions, kind)
            file.write(data.ljust(padded(len(data)), b"\0"))


def draw(random, dimensions, kind):
    if kind == F32:
        return numpy.ones(dimensions, dtype="<f4").tobytes()
    count = int(numpy.prod(dimensions)) // 32
    blocks = numpy.empty(count, dtype=[("scale", "<f2"), ("values", "i1", 32)])
    # About the deviation that layers of this width are initialised with.
    blocks["scale"] = 1.7 / (127 * dimensions[0] ** 0.5)
    blocks["values"] = random.integers(-127, 128, (count, 32), dtype=numpy.int8)
    return blocks.tobytes()


def size(dimensions, kind):
    values = int(numpy.prod(dimensions))
    return values * 4 if kind == F32 else values // 32 * 34


def padded(length):
    return (length + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def describe(shape):
    """The metadata, each pair as its bytes."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, unseen = {}, 0
    for byte in range(256):
        if byte in seen:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(0x100 + unseen)
            unseen += 1
    special = ["<|im_start|>", "<|im_end|>"]
    tokens = [letters[byte] for byte in range(256)] + special
    # \u0120 is how a space is written.
    tokens += ["\u0120" + word(number) for number in range(shape["vocabulary"] - len(tokens))]
    kinds = [3 if 256 <= token < 258 else 1 for token in range(len(tokens))]
    integers = {
        "context_length": shape["context"], "embedding_length": shape["width"], "block_count": shape["layers"],
        "feed_forward_length": shape["inner"], "attention.head_count": shape["heads"],
        "attention.head_count_kv": shape["heads_kv"], "rope.dimension_count": shape["width"] // shape["heads"],
    }  # fmt: skip
    return [
        pair("general.architecture", 8, text("llama")),
        *(pair(f"llama.{key}", 4, struct.pack("<I", value)) for key, value in integers.items()),
        pair("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
        pair("tokenizer.ggml.model", 8, text("gpt2")),
        pair("tokenizer.ggml.pre", 8, text("gpt-2")),
        pair("tokenizer.ggml.tokens", 9, array(8, [text(token) for token in tokens])),
        pair("tokenizer.ggml.token_type", 9, array(5, [struct.pack("<i", kind) for kind in kinds])),
        pair("tokenizer.ggml.merges", 9, array(8, [text("t h")])),
        pair("tokenizer.ggml.bos_token_id", 4, struct.pack("<I", 256)),
        pair("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 257)),
        pair("tokenizer.ggml.add_bos_token", 7, b"\0"),
        pair("tokenizer.chat_template", 8, text(THINKING if shape.get("thinks") else CHATML)),
    ]


def word(number):
    """Four letters and more, another one for each number."""
    letters = ""
    for _ in range(4):
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return letters


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value


def array(kind, values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.file, arguments.shape, arguments.seed)
