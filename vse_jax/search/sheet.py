"""A self-contained HTML page with the results of queries."""

import html
from collections.abc import Sequence

from vse_jax.gallery.pictures import thumbnail_url
from vse_jax.search.queries import Query
from vse_jax.search.searcher import Hit, Searcher

_THUMBNAIL = 240  # pixels
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --muted: #767676; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 75rem;
  padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; }
ol { display: grid; gap: 1rem; list-style: none; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); }
li { border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
img { aspect-ratio: 1; display: block; object-fit: contain; width: 100%;
  background: #8881; }
div { padding: .5rem .75rem; } p { margin: .25rem 0; overflow-wrap: anywhere; }
.score { color: var(--muted); font-size: .85rem; }
"""


def page(searcher: Searcher, results: Sequence[tuple[Query, list[Hit]]]) -> str:
    """Returns an HTML page that needs no other file.

    Args:
      searcher: what answered the queries; it has the photos.
      results: queries with what they found.
    """
    sections = "\n".join(_section(searcher, *result) for result in results)
    rows = f"{searcher.gallery.rows:,} {searcher.gallery.content}"
    return f"""<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Search results</title>
<style>{_STYLE}</style>
<h1>Search results in {rows}</h1>
{sections}
</html>
"""


def _section(searcher, query, hits):
    items = "\n".join(_item(searcher, hit) for hit in hits)
    found = f"<ol>\n{items}\n</ol>" if hits else "<p>Nothing is that similar.</p>"
    return f"<h2>{html.escape(query.name)}</h2>\n{found}"


def _item(searcher, hit):
    image = _image(searcher, hit)
    lines = [*hit.captions[:1], hit.id if image or not hit.captions else ""]
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines if line)
    return (
        f"<li>{image}<div>{text}"
        f'<p class="score">{hit.rank}. similarity {hit.score:.3f}</p></div></li>'
    )


def _image(searcher, hit):
    content = searcher.picture(hit.row)
    if content is None:
        return ""
    url = thumbnail_url(content, _THUMBNAIL)
    text = html.escape(hit.captions[0] if hit.captions else hit.id, quote=True)
    return f'<img src="{url}" alt="{text}">'
