"""Entry points for ``torch.hub``.

    import torch
    model = torch.hub.load("org/ccl", "ccl_lite0", trust_repo=True)

``trust_repo=True`` avoids the interactive question that torch.hub asks for new repositories. A tag
or commit after a colon, ``"org/ccl:v0.1.0"``, keeps to that version of the code; without one it is
the newest, downloaded once and then kept until ``force_reload=True``.

A process has one ``ccl_hub``: the one that it imported first, from here, from another version or
as an installed package. An entry that comes with other code says so and gives no model; copies of
the same code count as one.
"""

from hashlib import sha256 as _sha256
from pathlib import Path as _Path

dependencies = ["torch", "numpy", "av", "safetensors", "huggingface_hub"]


def _package():
    """Import ``ccl_hub``, and refuse one whose code is not what lies beside this file."""
    import ccl_hub

    local = _Path(__file__).resolve().parent / "ccl_hub"
    imported = _Path(ccl_hub.__file__).resolve().parent
    # The hash is kept, because force_reload=True replaces the files of an imported package.
    if vars(ccl_hub).setdefault("_code", _code(imported)) != _code(local):
        raise ImportError(
            f"this process has imported ccl_hub {ccl_hub.__version__} from {imported}; the code "
            f"in {local} is another one, and a process can have only one. Load this model in a "
            "new process, before anything else imports ccl_hub, or go on with the imported code: "
            "ccl_hub.CCLModel.from_pretrained(...)."
        )
    return ccl_hub


def _code(folder):
    """Return a hash of all that decides how a package works: its code, its configurations."""
    whole = _sha256()
    for file in sorted([*folder.rglob("*.py"), *folder.glob("checkpoints/*/config.json")]):
        text = file.read_text(encoding="utf-8")  # whatever the system's line ends are
        whole.update(f"{file.relative_to(folder).as_posix()} {len(text)}\n{text}".encode())
    return whole.hexdigest()


def _load(name, pretrained, weights, **kw):
    model = _package().CCLModel
    from ccl_hub._util.checks import known_keywords
    from ccl_hub.errors import InputError
    from ccl_hub.model import PRETRAINED_KEYWORDS

    if weights is not None and not pretrained:
        raise InputError(f"weights is {str(weights)!r} but pretrained is False; give one of them.")
    allowed = PRETRAINED_KEYWORDS if pretrained else ("config",)
    known_keywords(kw, ("pretrained", "weights", *allowed))
    if not pretrained:
        return model(kw["config"] if "config" in kw else _config(name))
    return model.from_pretrained(name if weights is None else weights, **kw)


def _config(name):
    """Return what builds a model of this name, without provenance: fresh weights have none."""
    from ccl_hub.config import CCLConfig
    from ccl_hub.network.model_files import CONFIG_NAME, bundled_folder

    path = bundled_folder(name) / CONFIG_NAME
    if not path.is_file():
        return CCLConfig()
    shipped = CCLConfig.from_file(path)
    return CCLConfig(shipped.architecture, shipped.preprocessing)


def ccl_lite0(pretrained=True, weights=None, **kw):
    """EfficientNet-Lite0, taught by CCL on edited views of video; ships with the code.

    Small, fast, and the default of this package. It started from weights trained with the labels
    of ImageNet. Its vectors are centred and whitened: compare them by plain cosine.

    Args:
        pretrained (bool): False gives fresh random weights, in training mode.
        weights (str): Instead of the named checkpoint: another name, a local folder or a Hub id
            ``org/name``, also ``org/name@revision``. Only safetensors are loaded.
        kw: As in ``CCLModel.from_pretrained``: ``revision``, ``device``, ``dtype``, ``token``,
            ``cache_dir``, ``local_files_only``, ``force_download``, ``subfolder``. If not
            pretrained: ``config``.

    Returns:
        ``ccl_hub.CCLModel``: ``model(clips)`` takes (B, 3, T, 160, 160) normalised floats and
        returns ``frames`` (B, T, 512) and ``video`` (B, 512); ``model.embed("video.mp4")`` takes
        a file. ``ccl_preprocess`` makes clips from uint8 frames.
    """
    return _load("ccl_lite0", pretrained, weights, **kw)


def ccl_r18_mini(pretrained=True, weights=None, **kw):
    """CCL R18+1 trained on 225 minutes of unlabelled video; ships with the code, needs no network.

    Arguments and result are those of ``ccl_lite0``, but that its clips are (B, 3, T, 112, 112).
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
    """Turn uint8 RGB frames (T, H, W, 3) or (B, T, H, W, 3) into model input (B, 3, T, H, W).

    Args:
        frames (numpy.ndarray): uint8 RGB, already sampled: 8 frames 0.16 s apart make one clip.
        preprocessing (ccl_hub.Preprocessing): ``model.preprocessing``; the paper's by default.

    Returns:
        torch.Tensor: float32, resized, centre-cropped and normalised.
    """
    _package()
    from ccl_hub.embed import preprocess

    return preprocess(frames, preprocessing)
