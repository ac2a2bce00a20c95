"""Entry points for ``torch.hub``.

    import torch
    model = torch.hub.load("org/ccl", "ccl_r18_mini", trust_repo=True)

``trust_repo=True`` avoids the interactive question that torch.hub asks for new repositories. A tag
or commit after a colon, ``"org/ccl:v0.1.0"``, keeps to that version of the code; without one it is
the newest, downloaded once and then kept until ``force_reload=True``.
"""

dependencies = ["torch", "numpy", "av", "safetensors", "huggingface_hub"]


def _load(name, pretrained, weights, **kw):
    from ccl_hub import CCLModel
    from ccl_hub.errors import InputError

    if weights is not None and not pretrained:
        raise InputError(f"weights is {str(weights)!r} but pretrained is False; give one of them.")
    if not pretrained:
        return CCLModel(**kw)
    return CCLModel.from_pretrained(name if weights is None else weights, **kw)


def ccl_r18_mini(pretrained=True, weights=None, **kw):
    """CCL R18+1 trained on 225 minutes of unlabelled video; ships with the code, needs no network.

    Args:
        pretrained (bool): False gives fresh random weights, in training mode.
        weights (str): Instead of the named checkpoint: another name, a local folder or a Hub id
            ``org/name``, also ``org/name@revision``. Only safetensors are loaded.
        kw: ``device``, ``dtype``, ``revision`` as in ``CCLModel.from_pretrained``; ``config`` if
            not pretrained.

    Returns:
        ``ccl_hub.CCLModel``: ``model(clips)`` takes (B, 3, T, 112, 112) normalised floats and
        returns ``frames`` (B, T, 512) and ``video`` (B, 512); ``model.embed("video.mp4")`` takes
        a file. ``ccl_preprocess`` makes clips from uint8 frames.
    """
    return _load("ccl_r18_mini", pretrained, weights, **kw)


def ccl_r18_k400(pretrained=True, weights=None, **kw):
    """CCL R18+1 trained on Kinetics-400 without labels (not yet published).

    Arguments and result are those of ``ccl_r18_mini``: until it is published, give ``weights`` or
    ``pretrained=False``.
    """
    return _load("ccl_r18_k400", pretrained, weights, **kw)


def ccl_r18_ucf101(pretrained=True, weights=None, **kw):
    """CCL R18+1 trained on UCF101 without labels (not yet published).

    Arguments and result are those of ``ccl_r18_mini``: until it is published, give ``weights`` or
    ``pretrained=False``.
    """
    return _load("ccl_r18_ucf101", pretrained, weights, **kw)


def ccl_preprocess(frames, preprocessing=None):
    """Turn uint8 RGB frames (T, H, W, 3) or (B, T, H, W, 3) into model input (B, 3, T, 112, 112).

    Args:
        frames (numpy.ndarray): uint8 RGB, already sampled: 8 frames 0.16 s apart make one clip.
        preprocessing (ccl_hub.Preprocessing): ``model.preprocessing``; the paper's by default.

    Returns:
        torch.Tensor: float32, resized, centre-cropped and normalised.
    """
    from ccl_hub.arrays import preprocess

    return preprocess(frames, preprocessing)
