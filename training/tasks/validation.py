"""Retrieval on small labelled sets, to see whether a run learns (paper, Section 4.2).

Three questions per set, each in the 512-d features and in the 128-d space of the loss: does a test
clip find training clips of its class (V=>V); does a frame find the clip that holds it among all
test clips (F=>V); does a clip find one of its frames among all test frames (V=>F)? For the latter
two a milder column counts any clip or frame of the same video.
"""

from __future__ import annotations

from ccl_hub import CCLModel
from ccl_hub.errors import ConfigError

from ..evaluation.features import SetFeatures, features_of
from ..evaluation.retrieval import questions, top_k_accuracy
from ..frames.packed import FrameSource, open_store
from ..frames.rendered import RenderedVideos
from ..recipes.pretraining import Recipe

KS = (1, 5, 10)
SPACE_NAMES = {"512": "features", "128": "projections"}
QUESTION_NAMES = {
    ("V=>V", "class"): "video_to_video",
    ("F=>V", "exact clip"): "frame_to_video_clip",
    ("V=>F", "exact clip"): "video_to_frame_clip",
    ("F=>V", "same video"): "frame_to_video_same_video",
    ("V=>F", "same video"): "video_to_frame_same_video",
}
Table = dict[str, dict[str, dict[str, float]]]


class Validator:
    """Measures a model on the recipe's validation sets.

    Args:
        recipe: Its ``[validation]`` names packed sets with classes and splits.

    Raises:
        TrainingError: A set is missing or damaged, or has no ``train`` or ``test`` videos.
        ConfigError: A set was packed with another preprocessing, or two have the same name.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._section = recipe.validation
        self._bf16 = recipe.precision.autocast == "bf16"
        self.sets: list[FrameSource] = [
            open_store(path, recipe.preprocessing) for path in self._section.packs
        ]
        if self._section.rendered:
            videos = RenderedVideos(self._section.rendered, recipe.preprocessing, seed=1)
            self.sets.append(videos)
        names = [labelled.videos.name for labelled in self.sets]
        if len(set(names)) != len(names):
            raise ConfigError(
                f"validation sets are named {', '.join(names)}; tables need different names, "
                "so pack each set under another name."
            )
        for labelled in self.sets:
            for split in ("train", "test"):
                labelled.videos.select(split)

    def measure(self, model: CCLModel) -> dict[str, Table]:
        """Return ``set -> space -> question -> k -> accuracy in [0, 1]``; the mode is restored."""
        tables = {}
        for source in self.sets:
            features = features_of(
                model,
                source,
                clips=self._section.clips,
                batch_clips=self._section.batch_clips,
                bf16=self._bf16,
            )
            tables[source.videos.name] = retrieval_table(features, source)
        return tables


def retrieval_table(features: SetFeatures, source: FrameSource) -> Table:
    """Answer the three questions for one set.

    Args:
        features: Of every clip of the set.
        source: Gives the classes and splits of the videos.

    Returns:
        ``space -> question -> k -> accuracy in [0, 1]``; spaces are ``features`` (512-d) and
        ``projections`` (128-d). A k above the size of a gallery counts all of it. Keys are texts,
        as in the JSON of a checkpoint.
    """
    table: Table = {}
    for space, space_name in SPACE_NAMES.items():
        accuracies = {}
        for question in questions(features, source, space, levels=("clip",)):
            if question.task == "F=>F":
                continue
            size = min(max(KS), len(question.gallery.vectors))
            for match, hits in question.hits(size).items():
                name = QUESTION_NAMES[question.task, match]
                shares = top_k_accuracy(hits, KS)
                accuracies[name] = {str(k): round(share, 6) for k, share in shares.items()}
        table[space_name] = {name: accuracies[name] for name in QUESTION_NAMES.values()}
    return table
