"""The links of a file of any container."""

from speechmtp.audio.containers.chunks import AIFF, AU, CAF, SPHERE, W64, au_links, chunk_links, sphere_links
from speechmtp.audio.containers.flac import flac_begins, flac_links
from speechmtp.audio.containers.links import AS_IT_IS, Data, Link
from speechmtp.audio.containers.mpeg import mpeg_links, skip_tags, starts_mpeg
from speechmtp.audio.containers.ogg import ogg_links
from speechmtp.audio.containers.riff import MAGICS, riff_links


def links_of(data: Data) -> list[Link]:
    """The streams that a file holds, one after the other, at least one. Nothing is decoded; a file of another
    container is one link, as it is."""
    magic = data[:4]
    if magic in MAGICS:
        return riff_links(data)
    if magic == b"OggS":
        return ogg_links(data)
    for layout in (AIFF, CAF, W64):
        if data[: len(layout.magic)] == layout.magic:
            return chunk_links(data, layout)
    if magic in AU:
        return au_links(data) or [AS_IT_IS]
    if SPHERE.match(data[:16]):
        return sphere_links(data)
    begin = skip_tags(data, 0)
    if flac_begins(data, begin):
        return flac_links(data, begin)
    return mpeg_links(data) if starts_mpeg(data) else [AS_IT_IS]
