"""Embed a folder of videos with Ray Data, on this machine or on a cluster.

    pip install 'ccl-hub[ray]'
    python examples/embed_with_ray.py VIDEOS --out features.parquet --cpus 2

VIDEOS is a folder, or a parquet file or URL with a column ``path`` of local paths or URLs. The
result is a folder of parquet files with a row for each clip; a video that cannot be embedded has
one row that says why. With ``--address`` the work goes to a running cluster, whose machines must
all see the videos.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

SUFFIXES = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg", ".flv"}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", help="folder of videos, or a parquet with a column 'path'")
    parser.add_argument("--out", required=True, help="folder or URL of the parquet files; new")
    parser.add_argument("--model", default="ccl_lite0", help="name, Hub id or folder")
    parser.add_argument("--clips", type=int, help="clips of each video (default 10)")
    parser.add_argument("--level", default="clip", choices=["clip", "video"])
    parser.add_argument("--cpus", type=int, default=os.cpu_count(), help="of the local cluster")
    parser.add_argument("--cpus-per-actor", type=int, help="default: --cpus; in a cluster 1")
    parser.add_argument("--gpus-per-actor", type=float, default=0.0, help="0.25: four share one")
    parser.add_argument("--address", help="of a running cluster, or 'auto'; none starts one here")
    return parser.parse_args()


def main() -> int:
    """Embed, write, and say what came of it; 1 if a video failed."""
    args = arguments()
    if "://" not in args.out and Path(args.out).exists():
        print(f"{args.out} is there already; give the name of a new folder.", file=sys.stderr)
        return 2
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import pyarrow.dataset
    import ray

    from ccl_hub.ray import embed_paths

    source = args.videos
    if Path(source).is_dir():
        source = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in SUFFIXES)
        if not source:
            sys.exit(f"{args.videos}: no video in this folder or below it")
    if args.address:
        ray.init(address=args.address)
    else:
        # Ray counts CPUs, it does not bind them: one more is for reading and writing, which take
        # little, and which would wait for ever if the actor took all.
        ray.init(
            num_cpus=args.cpus + 1,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",  # reached from this machine alone
        )
    rows = embed_paths(
        source,
        args.model,
        clips=args.clips,
        level=args.level,
        cpus_per_actor=args.cpus_per_actor or (1 if args.address else args.cpus),
        gpus_per_actor=args.gpus_per_actor,
    )
    rows.write_parquet(args.out)
    ray.shutdown()
    written = pyarrow.dataset.dataset(args.out)
    failed = pyarrow.dataset.field("status") == "failed"
    bad = written.to_table(columns=["path", "code", "reason"], filter=failed).to_pylist()
    print(f"{written.count_rows()} rows in {args.out}; {len(bad)} videos failed", file=sys.stderr)
    for row in bad:
        print(f"  {row['path']}: {row['code']}: {row['reason']}", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
