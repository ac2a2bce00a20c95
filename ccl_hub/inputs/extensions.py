"""What videos and still images are called: the one table of extensions, also for training."""

from __future__ import annotations

VIDEO_EXTENSIONS = (
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".wmv", ".ts"),  # what most people have
    # MP4 and QuickTime: of phones, of Smooth Streaming and CMAF tracks, of action and 360-degree
    # cameras (GoPro .lrv .glv .360, DJI .lrf, Insta360 .insv); AVIF may move.
    *(".m4v", ".mp4v", ".mpg4", ".mpeg4", ".f4v", ".qt", ".mqv", ".hdmov", ".mj2", ".mjp2"),
    *(".3gp", ".3gpp", ".3gp2", ".3g2", ".3gpp2", ".ismv", ".cmfv", ".dvb", ".avif"),
    *(".lrv", ".glv", ".360", ".lrf", ".insv"),
    *(".mk3d", ".divx", ".xvid"),  # Matroska, AVI
    # MPEG: of camcorders (.mts .mod .tod), receivers and recorders (.tp .trp .rec .vro), discs.
    *(".mts", ".m2ts", ".m2t", ".mpegts", ".tod", ".tp", ".trp", ".rec", ".ssif", ".mpeg"),
    *(".mpe", ".mpg2", ".mpeg2", ".mpv", ".mpv2", ".m1v", ".m2v", ".mp2v", ".m2p", ".mod"),
    *(".vob", ".vro", ".evo"),
    *(".asf", ".wm", ".dvr-ms", ".flv", ".ogv", ".ogm", ".ogg", ".ogx", ".rm", ".rmvb", ".rv"),
    *(".mxf", ".nut", ".ivf", ".obu", ".dv", ".dif", ".swf", ".gif", ".apng", ".y4m"),
    *(".h263", ".263", ".h264", ".h26l", ".264", ".avc", ".h265", ".265", ".hevc"),
    *(".h266", ".266", ".vvc", ".mjpeg", ".mjpg"),
)
"""Names of files that a folder is searched for, the most usual first: those of containers that are
opened. Some may hold something else (.ogg sound, .mod music, .ts and .rec anything), which is then
told as a failure. Names that mostly do are left out: .dat, .ps, and .m4s without its header. A
.gif, .apng or .avif may be a still image, which is embedded as a video of one frame.
"""

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif"),
)
"""Names of still images: not taken from folders, but embedded where they are named."""
