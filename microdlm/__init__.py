"""microDLM: discrete diffusion language models, learned by building one."""

__version__ = "0.1.0"


def load(name, device: str = "cpu", **how):
    """A trained model by name or folder: see `microdlm.pretrained.load`."""
    from microdlm import pretrained  # torch takes a second; `import microdlm` should not

    return pretrained.load(name, device, **how)
