"""Long videos made of a short one by repeating its packets; nothing is encoded anew."""

from __future__ import annotations

from pathlib import Path

import av

__all__ = ["looped"]


def looped(source: Path, target: Path, seconds: float) -> Path:
    """Write ``source`` again and again until ``target`` lasts ``seconds``."""
    with av.open(str(target), "w") as out:
        stream, offset = None, 0
        while True:
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                packets = [p for p in container.demux(video) if p.pts is not None]
                first = min(p.dts for p in packets)
                last = max(p.pts + (p.duration or 1) for p in packets)
                for packet in packets:
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    out.mux(packet)
                offset += last - first
                if offset * video.time_base >= seconds:
                    return target
