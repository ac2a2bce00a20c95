"""The tables of a library in an object store, by the protocol of S3 on the loopback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scenes import footage
from tiny_models import tiny_model

from ccl_hub.find.store import Store, Video, key_of, with_vectors

BUCKET = "videos"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Address of an empty bucket, which the environment has the keys of."""
    boto3, moto = pytest.importorskip("boto3"), pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT", f"http://{host}:{port}")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}")
        client.create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_tables_in_an_object_store_are_written_and_asked(bucket: str) -> None:
    writer = Store(f"{bucket}/library")
    writer.create(32)
    generator = np.random.default_rng(0)
    vectors = np.stack([unit(some) for some in generator.standard_normal((6, 20, 32))])
    for number, some in enumerate(vectors):
        key = key_of(f"v{number}")
        seconds = pa.array(np.arange(20) * 0.5, pa.float32())
        rows = with_vectors({"key": pa.array([key] * 20), "seconds": seconds}, some)
        writer.put(rows, None, [Video(key, f"v{number}", "", 10.0, "complete", "", "{}")])
    reader = Store(f"{bucket}/library")
    found = reader.nearest(vectors[:, 7].astype(np.float32), 1)
    assert found.keys.tolist() == [key_of(f"v{number}") for number in range(6)]
    assert found.seconds.tolist() == [3.5] * 6
    writer.remove([key_of("v2")])
    writer.optimize()
    writer.forget_versions()
    assert reader.frame_count == 120, "its version, until it asks for the latest"
    reader.refresh()
    assert reader.frame_count == 100 and len(reader.videos) == 5


ASK = """
import sys, lancedb, numpy as np
table = lancedb.connect(sys.argv[1] + "/rows").open_table("clips")
vector = np.array(table.search().where("path LIKE '%3.mp4'").limit(1).to_list()[0]["embedding"])
near = table.search(vector).distance_type("cosine").limit(1).to_list()[0]
print(table.count_rows(), near["path"].rsplit("/", 1)[1], abs(round(near["_distance"], 5)))
"""


def test_rows_of_ray_are_a_table_there_that_another_machine_asks(
    bucket: str, tmp_path: Path
) -> None:
    """What an actor of ``embed_paths`` gives, block by block, is added as it comes."""
    import lancedb

    from ccl_hub.ray import CCLEmbedder

    tiny_model().eval().save_pretrained(tmp_path / "model")
    paths = [footage(tmp_path / f"{number}.mp4", number, seconds=2.0) for number in range(4)]
    embedder = CCLEmbedder(str(tmp_path / "model"), clips=2)
    table = None
    for block in (paths[:2], paths[2:]):
        rows = embedder(pa.table({"path": [str(path) for path in block]}))
        rows = rows.select(["path", "embedding"])
        if table is None:
            table = lancedb.connect(f"{bucket}/rows").create_table("clips", rows)
        else:
            table.add(rows)
    done = subprocess.run(
        [sys.executable, "-c", ASK, bucket], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["8", "3.mp4", "0.0"], done.stderr
