"""The application: the page, and the endpoints that the page and programs use."""

import asyncio
import collections
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qsl

from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router

from vse_jax.data.datasets.photos import PhotoError
from vse_jax.search.queries import ReadPhoto
from vse_jax.search.searcher import Hit, Searcher
from vse_jax.serving import parameters, static
from vse_jax.serving.answers import RequestError, answer
from vse_jax.serving.batcher import Batcher, Search
from vse_jax.serving.descriptions import Descriptions
from vse_jax.serving.parameters import Parameter
from vse_jax.serving.pictures import SIZES, PictureCache

_PHOTO_THREADS = 2  # that decode photos, each of which may take much memory
_MAXIMUM_UPLOADS = 16  # photos in memory
_MAXIMUM_FIELDS = 64
_REMEMBERED_ROWS = 50_000
_RAW_PHOTO_TYPES = ("image/", "application/octet-stream")


class _IdConvertor(Convertor):
    regex = "(?s:.+)"  # with slashes and line breaks

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("id", _IdConvertor())


class App:
    """Answers the requests to a searcher.

    Attributes:
      router: the ASGI application.
    """

    def __init__(self, searcher: Searcher):
        """Reads the files of the page."""
        self._searcher = searcher
        self._batcher = Batcher(searcher)
        self._pictures = PictureCache(searcher)
        self._descriptions = Descriptions(searcher)
        self._photo_threads = ThreadPoolExecutor(_PHOTO_THREADS, "photos")
        self._uploads = 0
        # The rows of recent results, since finding the row of an ID reads all IDs.
        self._rows: collections.OrderedDict[str, int] = collections.OrderedDict()
        self.router = Router(
            [
                *static.routes(),
                Route("/search", self._search, methods=["GET", "POST"]),
                Route("/image/{id:id}", self._image, methods=["GET"]),
                Route("/gallery", self._gallery, methods=["GET"]),
                Route("/health", self._health, methods=["GET"]),
            ],
            redirect_slashes=False,
        )

    async def _gallery(self, request: Request) -> Response:
        return answer(self._descriptions.gallery)

    async def _health(self, request: Request) -> Response:
        return answer({"status": "ok"})

    async def _search(self, request: Request) -> Response:
        start = time.perf_counter()
        if request.method == "POST":
            search = await self._upload(request)
        else:
            search = parameters.parse(_of_url(request), self._row_of)
        hits = await self._batcher.search(search)
        self._remember(hits)
        unknown = self._searcher.unknown_words(search.query)
        found = {
            "hits": [self._descriptions.hit(hit) for hit in hits],
            "unknown_words": list(dict.fromkeys(unknown)),
            "has_known_words": self._searcher.has_known_words(search.query),
            "is_truncated": self._searcher.is_truncated(search.query),
            "rows": self._searcher.gallery.rows,
            "milliseconds": round(1000 * (time.perf_counter() - start), 1),
        }
        return answer(found)

    def _remember(self, hits: list[Hit]) -> None:
        self._rows.update((hit.id, hit.row) for hit in hits)
        while len(self._rows) > _REMEMBERED_ROWS:
            self._rows.popitem(last=False)

    def _row_of(self, row_id: str) -> int | None:
        row = self._rows.get(row_id)
        return self._searcher.gallery.position_of(row_id) if row is None else row

    async def _upload(self, request: Request) -> Search:
        """Parses a search by POST, and decodes its photos in threads."""
        if self._uploads >= _MAXIMUM_UPLOADS:
            raise RequestError(
                503, "too many photos are being sent; try again", {"retry-after": "1"}
            )
        self._uploads += 1
        try:
            given = [*_of_url(request), *await _of_body(request)]
            search = parameters.parse(given, self._row_of)
            parts = [await self._decoded(part) for part in search.query.parts]
            return search._replace(query=search.query._replace(parts=tuple(parts)))
        finally:
            self._uploads -= 1

    async def _decoded(self, part):
        if part.photo is None:
            return part
        read = self._searcher.model.image_input.read
        try:
            content = await self._in_thread(read, part.photo)
        except PhotoError as error:
            raise RequestError(400, f"the photo cannot be used: {error}") from None
        return part._replace(photo=ReadPhoto(content))

    async def _image(self, request: Request) -> Response:
        row_id = request.path_params["id"]
        options = dict(_of_url(request))
        size = options.pop("size", "small")
        if options or size not in SIZES:
            raise RequestError(
                400, f"expected no other option than size, one of {', '.join(SIZES)}"
            )
        row = self._row_of(row_id)
        if row is None:
            raise RequestError(404, f"the gallery has no item {row_id[:100]!r}")
        picture = await self._in_thread(self._pictures.get, row, size)
        if picture is None:
            raise RequestError(404, f"{row_id[:100]!r} has no photo that can be read")
        return static.kept_by_browser(request, picture, "image/jpeg")

    def _in_thread(self, function, *arguments):
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._photo_threads, function, *arguments)


def _of_url(request) -> list[Parameter]:
    text = request.scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=_MAXIMUM_FIELDS)
    except ValueError:
        raise RequestError(
            400, f"too many parameters; expected at most {_MAXIMUM_FIELDS}"
        ) from None
    return [Parameter(*pair) for pair in pairs]


async def _of_body(request) -> list[Parameter]:
    """Returns the fields of a form, or a photo that is the whole body."""
    media_type = request.headers.get("content-type", "").lower()
    if media_type.startswith(_RAW_PHOTO_TYPES):
        return [Parameter("photo", await request.body())]
    if not media_type.startswith("multipart/form-data"):
        raise RequestError(
            415,
            f"the content type is {media_type[:100]!r}; expected a photo (image/jpeg "
            "or similar) or multipart/form-data",
        )
    limits = {"max_files": parameters.MAXIMUM_PARTS, "max_fields": _MAXIMUM_FIELDS}
    async with request.form(**limits) as form:
        return [
            Parameter(name, await value.read())
            if isinstance(value, UploadFile)
            else Parameter(name, value)
            for name, value in form.multi_items()
        ]
