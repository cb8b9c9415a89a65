"""What we ask of a Hugging Face hub, and what we believe of its answers. Used by fetch.py, and by download.py from
several threads.

Everything that comes from the hub is checked here: names, sizes, digests, redirects. The token goes to the hub's own
address and to no other.
"""
import dataclasses
import email.utils
import http.client
import json
import os
import pathlib
import random
import re
import string
import time
import urllib.error
import urllib.parse
import urllib.request

TIMEOUT_S = 30  # of a connection, and of a silence on it
REDIRECTS_MAX = 5
WAIT_S_MAX = 300  # a hub that asks for more is asked again by the user
LISTING_BYTES_MAX = 32 << 20
FILES_MAX = 2000
TEXT_BYTES_MAX = 256 << 20  # a tokenizer.json has 35 MB at most, so far
WEIGHT_BYTES_MAX = 4 << 40
WORD = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}"
GGUF = rf"({WORD}/)?{WORD}\.gguf"  # those in parts often have a folder


class Failure(Exception):
    """Ends the run: what, where and how to mend it, in one line."""


class Lie(Failure):
    """What came is not what the hub announced: the file it came for is not worth keeping."""


class Broken(Exception):
    """Worth another attempt, after wait_s if the hub says so."""

    def __init__(self, reason, wait_s=None):
        super().__init__(reason)
        self.wait_s = wait_s


class Stopped(Exception):
    """Another thread failed, or the user has had enough."""


class Patience:
    """Attempts at one thing: waits longer after each failure in a row, and gives up after so many."""

    def __init__(self, attempts_max, backoff_s, stop, say):
        self.attempts_max, self.backoff_s, self.stop, self.say = attempts_max, backoff_s, stop, say
        self.failures = 0

    def reset(self):
        self.failures = 0

    def after(self, broken, what, mend):
        self.failures += 1
        wait_s = broken.wait_s
        if wait_s is not None and wait_s > WAIT_S_MAX:
            raise Failure(f"{what}: {broken} and asks to wait {wait_s:.0f} s; run this again after that")
        if self.failures >= self.attempts_max:
            raise Failure(f"{what}: {broken}, {self.failures} times in a row; {mend}")
        if wait_s is not None:
            self.say(f"{broken}; waiting {wait_s:.0f} s as asked")
        else:  # not all connections at the same moment
            wait_s = min(30, self.backoff_s * 2 ** (self.failures - 1)) * random.uniform(0.75, 1)
        if self.stop.wait(wait_s):
            raise Stopped


@dataclasses.dataclass(frozen=True)
class File:
    name: str
    size: int
    algorithm: str  # "sha256" of the bytes, or "git-sha1": as git names a blob
    digest: str

    @property
    def local_name(self):
        """Its folder on the hub is none of ours."""
        return self.name.rpartition("/")[2]


@dataclasses.dataclass(frozen=True)
class Listing:
    commit: str
    files: dict  # name → File, those that a model may need


@dataclasses.dataclass(frozen=True)
class Body:
    """An answer's bytes [first, end) of a file."""

    response: http.client.HTTPResponse
    first: int
    end: int
    counted: bool  # whether a Content-Length says so too

    def read(self, size_max):
        try:
            data = self.response.read1(size_max)
        except (OSError, http.client.HTTPException) as e:
            raise Broken(reason_of(e)) from e
        if not data:
            raise Broken("the connection ended early")
        return data

    def expect_end(self, name):
        try:
            more = not self.counted and self.response.read1(1)
        except (OSError, http.client.HTTPException):
            return
        if more:
            raise Lie(f"{name}: more came than the hub announced; deleted, try another HF_ENDPOINT")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.response.close()


class NoRedirects(urllib.request.HTTPRedirectHandler):
    """Hub.get follows them itself: the library would send our token along and read bodies without a limit."""

    def redirect_request(self, *_):
        return None


class Hub:
    def __init__(self, endpoint, token):
        self.endpoint = endpoint.rstrip("/")
        self.origin = origin_of(self.endpoint)
        if self.origin is None:
            raise Failure(f"HF_ENDPOINT={endpoint}: not an address; give one as https://huggingface.co")
        self.token = token
        self.opener = urllib.request.build_opener(NoRedirects)

    def list(self, model, revision):
        """The commit that a revision is, and the files there."""
        url = f"{self.endpoint}/api/models/{model}/revision/{urllib.parse.quote(revision, safe='')}?blobs=true"
        with self.get(url, model) as response:
            try:
                text = response.read(LISTING_BYTES_MAX + 1)
            except (OSError, http.client.HTTPException) as e:
                raise Broken(reason_of(e)) from e
            if len(text) > LISTING_BYTES_MAX:
                raise Failure(f"{model}: the hub's list of its files is longer than {LISTING_BYTES_MAX >> 20} MiB")
            if response.length:
                raise Broken("the connection ended early")
        return read_listing(text, model)

    def open(self, model, commit, file, asked=None):
        """A file's bytes; asked: (first, end) of those wanted. A server may answer with fewer, or with the whole."""
        url = f"{self.endpoint}/{model}/resolve/{commit}/{urllib.parse.quote(file.name)}"
        headers = {} if asked is None else {"Range": f"bytes={asked[0]}-{asked[1] - 1}"}
        response = self.get(url, model, headers, file)
        try:
            return body_of(response, file, asked)
        except BaseException:
            response.close()
            raise

    def get(self, url, model, headers=None, file=None):
        for _ in range(REDIRECTS_MAX + 1):
            request = urllib.request.Request(url, headers={"User-Agent": "convoy-fetch-model", **(headers or {})})
            if self.token and origin_of(url) == self.origin:
                request.add_unredirected_header("Authorization", f"Bearer {self.token}")
            try:
                return self.opener.open(request, timeout=TIMEOUT_S)
            except urllib.error.HTTPError as answer:
                answer.close()
                if answer.code not in (301, 302, 303, 307, 308):
                    raise self.refusal(answer, url, model, file) from None
                url = redirected(url, answer.headers.get("Location", ""), model)
            except (OSError, http.client.HTTPException, ValueError) as e:
                host = urllib.parse.urlsplit(url).netloc
                if "CERTIFICATE_VERIFY_FAILED" in str(e):
                    raise Failure(f"{host}: its certificate is not trusted; install ca-certificates or check your "
                                  "proxy") from e
                raise Broken(f"{host} cannot be reached ({reason_of(e)})") from e
        raise Failure(f"{model}: the hub redirects more than {REDIRECTS_MAX} times; check HF_ENDPOINT")

    def refusal(self, answer, url, model, file):
        code = answer.code
        what = f"{model}/{file.name}" if file else model
        page = f"{self.endpoint}/{model}"
        tokens = f"{self.endpoint}/settings/tokens"
        if code == 416 and file:
            return Lie(f"{what}: shorter than the {file.size} bytes that the hub announced; deleted, run this again")
        if code in (408, 425, 429) or code >= 500:
            return Broken(f"the hub answers {code}", retry_after_s(answer.headers.get("Retry-After")))
        if origin_of(url) != self.origin:  # its signed addresses expire
            return Broken(f"{urllib.parse.urlsplit(url).netloc} answers {code}")
        if code in (401, 403) and not self.token:
            return Failure(
                f"{what}: the hub gives it to no stranger ({code}); is the name right? If so, accept the model's terms "
                f"at {page} and set HF_TOKEN to a token of yours from {tokens}"
            )
        if code == 401:
            return Failure(f"{what}: the hub does not take your token (401); set HF_TOKEN to a new one from {tokens}")
        if code == 403:
            return Failure(f"{what}: your token may not read it (403); accept the model's terms at {page}, and let the "
                           f"token read gated repositories at {tokens}")
        if code == 404 and file:
            return Failure(f"{what}: listed by the hub but not there (404); try another HF_ENDPOINT, or later")
        if code == 404:
            return Failure(f"{what}: no such model or revision at {self.endpoint} (404); check the spelling")
        return Failure(f"{what}: the hub answers {code}, which we have no use for; check HF_ENDPOINT={self.endpoint}")


def endpoint_of(environment):
    return environment.get("HF_ENDPOINT") or "https://huggingface.co"


def token_of(environment):
    """The user's token, from where the hub's own tools look for it, or None."""
    token = environment.get("HF_TOKEN")
    if not token:
        cache = environment.get("XDG_CACHE_HOME") or "~/.cache"
        home = environment.get("HF_HOME") or os.path.join(cache, "huggingface")
        path = pathlib.Path(environment.get("HF_TOKEN_PATH") or os.path.join(home, "token")).expanduser()
        try:
            with open(path, encoding="ascii", errors="replace") as f:
                token = f.read(4096)
        except OSError:
            return None
    token = token.strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise Failure("your token has characters that no token has; copy it again into HF_TOKEN or its file")
    return token or None


def origin_of(url):
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


def redirected(url, location, model):
    target = urllib.parse.urljoin(url, urllib.parse.quote(location, encoding="iso-8859-1", safe=string.punctuation))
    if origin_of(target) is None or (url.startswith("https:") and not target.startswith("https:")):
        raise Failure(f"{model}: the hub redirects to what is no safe address; check HF_ENDPOINT")
    return target


def retry_after_s(value):
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return int(value)
    try:
        return max(0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def reason_of(error):
    error = getattr(error, "reason", None) or error
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return re.sub(r"[^ -~]", "?", text)[:100]  # it may quote the server


def body_of(response, file, asked):
    first, end = 0, file.size
    if response.status == 206 and asked:
        content_range = response.headers.get("Content-Range", "")
        said = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", content_range)
        if not said:
            raise Broken("an answer without a Content-Range")
        first, end = int(said[1]), int(said[2]) + 1
        if said[3] not in ("*", str(file.size)):
            raise Lie(f"{file.name}: the hub announced {file.size} bytes, but sends {said[3]}; deleted, run this again")
        if first != asked[0] or not first < end <= asked[1]:
            raise Broken("an answer with other bytes than those asked for")
    elif response.status != 200:
        raise Broken(f"an answer {response.status}")
    length = response.headers.get("Content-Length")
    if length is not None and length != str(end - first):
        length = re.sub(r"[^0-9]", "?", length)[:20]
        raise Lie(f"{file.name}: the hub announced {end - first} bytes, but sends {length}; deleted, run this again")
    return Body(response, first, end, length is not None)


def read_listing(text, model):
    try:
        listing = json.loads(text)
        commit = listing["sha"]
        siblings = listing["siblings"]
        if not re.fullmatch(r"[0-9a-f]{40}", commit) or not isinstance(siblings, list):
            raise ValueError
        names = [sibling["rfilename"] for sibling in siblings]
        for name in names:
            check_path(name, model)
        wanted = [sibling for sibling in siblings if is_wanted(sibling["rfilename"])]
        files = {sibling["rfilename"]: read_file(sibling, model) for sibling in wanted}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Failure(f"{model}: the hub's list of its files is not as it should be; check HF_ENDPOINT") from None
    if len(files) != len(wanted) or len(files) > FILES_MAX:
        raise Failure(f"{model}: the hub lists a file twice, or more than {FILES_MAX} files; check HF_ENDPOINT")
    return Listing(commit, files)


def check_path(path, model):
    """A path that leads out of its folder is nothing that a hub lists: nothing else of the list is believed either."""
    if not all(path.split("/")) or {".", ".."} & set(path.split("/")) or re.search(r"[\x00-\x1f\x7f\\]", path):
        raise Failure(f"{model}: the hub lists a file named {ascii(path)[:80]}, which leads out of its folder; nothing "
                      "is fetched from such a hub, check HF_ENDPOINT")


def is_wanted(name):
    """What Convoy may read in the top folder, and GGUF files a folder further down."""
    return bool(
        re.fullmatch(r"(config|generation_config|tokenizer|tokenizer_config)\.json|chat_template\.jinja", name)
        or re.fullmatch(rf"{WORD}\.(safetensors|safetensors\.index\.json)", name)
        or re.fullmatch(GGUF, name)
    )


def read_file(sibling, model):
    name, size, lfs = sibling["rfilename"], sibling["size"], sibling.get("lfs")
    size_max = WEIGHT_BYTES_MAX if name.endswith((".safetensors", ".gguf")) else TEXT_BYTES_MAX
    if type(size) is not int or not 0 <= size <= size_max:
        raise Failure(f"{model}/{name}: the hub gives it a size of {ascii(size)[:30]}, possible are 0 to {size_max}")
    if not lfs:  # in git itself
        file = File(name, size, "git-sha1", sibling["blobId"])
    elif lfs.get("size", size) == size:
        file = File(name, size, "sha256", lfs["sha256"])
    else:
        raise Failure(f"{model}/{name}: the hub gives it two sizes, {size} and {ascii(lfs['size'])[:30]}")
    if not re.fullmatch(r"[0-9a-f]{64}" if lfs else r"[0-9a-f]{40}", file.digest):
        raise Failure(f"{model}/{name}: the hub gives no digest to check it with; try another HF_ENDPOINT")
    return file
