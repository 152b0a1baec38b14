"""Three budgets for TinyStories (2305.07759), in which a text learns to end: presets of the twins, and what they read.

    tinystories-quick   1.0M     for two cores; a small download
    tinystories-45m     44.8M    an encoder that needs a GPU; a large download, held in memory whole
    tinystories-142m    141.6M   a DiT: learned positions, told t by adaLN-Zero, averaged. Likewise, and longer

One of the first ships, trained for 12,000 steps: weights/tinystories-diffusion. The large ones have the sizes of
systems others have published; how well ours learn has not been measured.
"""

from microdlm.state import TrainConfig

PRESETS = {  # name: (L, sizes of the network, training)
    "tinystories-quick": (
        256,
        dict(n_layer=4, n_head=4, d_model=128, tied=True),
        TrainConfig(steps=4500, batch_size=8, optimizer="muon", lr=6e-3),
    ),
    "tinystories-45m": (
        256,
        dict(n_layer=10, n_head=8, d_model=512, tied=True),
        TrainConfig(steps=60_000, batch_size=64, optimizer="muon", lr=1e-3, evals=30, checkpoints=60),
    ),
    "tinystories-142m": (
        256,
        dict(n_layer=12, n_head=12, d_model=768, positions="learned", time="adaln"),
        TrainConfig(steps=60_000, batch_size=128, lr=3e-4, ema=0.999, evals=30, checkpoints=60),
    ),
}
# Few ids where time is short: an embedding learns only from the texts that its token stands in.
VOCABULARY = {"tinystories-quick": 2048, "tinystories-45m": 26_000, "tinystories-142m": 8192}
TEXTS = {  # name: the text, its tokens, and how its texts begin
    name: {
        "data": "tinystories" if name == "tinystories-quick" else "tinystories-all",
        "tokenizer": "bpe",
        "vocab_size": size,
        "prompt": "Once upon a time",
    }
    for name, size in VOCABULARY.items()
}
