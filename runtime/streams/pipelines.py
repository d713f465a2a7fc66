"""GStreamer pipelines whose end OpenCV reads, as text.

On Jetsons the ISP, the video decoder and the change of colours are hardware that only NVIDIA's elements reach. The sink
holds one frame and drops older ones, so that nothing waits in it.
"""

from .address import Address

_SINK = "videoconvert ! video/x-raw,format=BGR ! appsink drop=true max-buffers=1 sync=false"
# nvvidconv writes no BGR: BGRx is the nearest, and videoconvert drops its fourth byte.
_NVIDIA = "nvvidconv%s ! video/x-raw,format=BGRx ! "
_WIDTH, _HEIGHT, _FPS = 1280, 720, 30  # which every sensor that JetPack has a driver for can do


def csi_pipeline(address: Address) -> str:
    """A camera on a Jetson's ribbon cable, through its image processor."""
    return "nvarguscamerasrc sensor-id=%s ! video/x-raw(memory:NVMM),width=%d,height=%d,framerate=%d/1 ! %s%s" % (
        address.text,
        address.number("width") or _WIDTH,
        address.number("height") or _HEIGHT,
        address.number("fps") or _FPS,
        _NVIDIA % (" flip-method=%d" % (address.number("flip") or 0)),
        _SINK,
    )


def rtsp_pipeline(url: str, nvidia: bool) -> str:
    """A network stream, over TCP, of any codec that GStreamer has a decoder for. nvidia: with NVIDIA's elements."""
    # Without latency=0 the source holds frames back for two seconds, against packets out of order; TCP has none.
    convert = _NVIDIA % "" if nvidia else ""
    return (
        # Many a camera sends sound as well, of which nothing is wanted.
        'rtspsrc location="%s" protocols=tcp latency=0 ! application/x-rtp,media=video ! decodebin ! %s%s'
        % (_quoted(url), convert, _SINK)
    )


def _quoted(url: str) -> str:
    """The URL between quotes, from which nothing in it leads out."""
    return url.replace("\\", "%5C").replace('"', "%22")
