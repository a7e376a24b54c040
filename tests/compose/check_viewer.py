"""The viewer service: one log-in for all that a browser shows, plain and over TLS. Run by ``make compose-test``."""

from __future__ import annotations

import base64
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urljoin

import pytest
import requests

from producer.demo.backlog import write_backlog
from tests.compose.stack import Stack
from tests.conftest import need
from tests.support.browser import Browser
from tests.support.servers import free_port, wait_until

pytestmark = pytest.mark.timeout(1800)

#: Pages that need the log-in; all that there are.
PATHS = (
    *("/", "/viewer/", "/viewer/app-config.js", "/dicom-web/studies", "/orthanc/app/explorer.html"),
    *("/orthanc/system", "/flower/", "/flower/metrics", "/grafana/", "/runs/seen/summary.html", "/anything"),
)


@dataclass
class Site:
    stack: Stack
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def login(self) -> tuple[str, str]:
        return self.stack.settings["CXR_PACS_USERNAME"], self.stack.settings["CXR_PACS_PASSWORD"]

    def get(self, path: str) -> requests.Response:
        return requests.get(urljoin(self.url, path), auth=self.login, timeout=60, allow_redirects=False)

    def links(self, path: str) -> list[str]:
        """Return the addresses that a page links on this site."""
        found = re.findall(r'href="([^"#]+)"', self.get(path).text)
        return [urljoin(urljoin(self.url, path), link.replace("&amp;", "&")) for link in found]

    def series(self, modality: str) -> tuple[str, str]:
        """Return the UIDs of a study that has a report, and of its series of a modality."""
        (report, *_) = sorted(self.stack.reports())
        study = self.stack.orthanc(f"/instances/{report}/study")
        for one in study["Series"]:
            tags = self.stack.orthanc(f"/series/{one}")["MainDicomTags"]
            if tags["Modality"] == modality or (modality == "image" and tags["Modality"] != "SR"):
                return study["MainDicomTags"]["StudyInstanceUID"], tags["SeriesInstanceUID"]
        raise AssertionError(f"no series of {modality}")


@pytest.fixture(scope="module")
def site(stack: Stack) -> Iterator[Site]:
    site = Site(stack)
    link = f"{site.url}/viewer/viewer?StudyInstanceUIDs={{study_instance_uid}}"
    stack.configure(CXR_VIEWER_PORT=str(site.port), CXR_VIEWER_LINK=link)
    path = stack.folder / "inbox" / "seen.zip"
    write_backlog(path, count=12, seed=11)
    path.chmod(0o644)
    done = stack.producer("run", "/inbox/seen.zip", "--out", "/out/seen")
    assert done.returncode in (0, 3), done.stdout + done.stderr
    stack.compose("--profile", "viewer", "up", "--detach", "--build", "--wait", "viewer")
    stack.wait_for((stack.folder / "out" / "index.html").exists, what="the runner writes the entry page")
    yield site
    stack.compose("--profile", "viewer", "rm", "--stop", "--force", "viewer")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_shown_without_the_log_in(site: Site, path: str) -> None:
    for login in (None, (site.login[0], "wrong"), ("", "")):
        answer = requests.get(site.url + path, auth=login, timeout=30, allow_redirects=False)
        assert answer.status_code == 401, (path, login)
        assert answer.headers["WWW-Authenticate"].startswith("Basic")
        assert "/" not in answer.headers["Server"]


def test_only_the_health_check_is_open(site: Site) -> None:
    assert requests.get(f"{site.url}/healthz", timeout=30).text == "ok\n"


def test_every_link_of_the_entry_page_leads_somewhere(site: Site) -> None:
    wait_until(lambda: "runs/seen/summary.html" in site.get("/").text, what="the run is listed")
    links = site.links("/")
    assert f"{site.url}/viewer/" in links
    assert f"{site.url}/runs/seen/scores.csv" in links
    for link in links:
        if link.endswith("/grafana/"):
            continue  # the profile monitoring is not up here
        assert site.get(link).status_code in (200, 302), link
    folder = site.stack.run_folder("seen") / "validation"
    folder.mkdir()
    (folder / "validation.html").write_text("compared")
    assert site.get("/runs/seen/validation/validation.html").text == "compared"
    pages = site.links("/runs/seen/summary.html")
    assert any("/viewer/viewer?StudyInstanceUIDs=" in page for page in pages)
    for page in pages:
        assert site.get(page).status_code == 200, page


def test_inner_log_ins_are_made_for_the_user(site: Site) -> None:
    assert site.get("/orthanc/system").json()["Name"] == "cxr-backlog"
    assert "Flower" in site.get("/flower/workers").text
    assert site.get("/flower/metrics").status_code == 404


#: Says what it was asked for. Grafana's image needs a registry, so what it would get is looked at.
ECHO = """
import http.server, json, sys
class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(said))); self.end_headers()
        self.wfile.write(said)
    do_POST = do_GET
http.server.HTTPServer(("", 3000), Echo).serve_forever()
"""


@pytest.fixture
def grafanas_place(site: Site) -> Iterator[str]:
    """Whatever stands where Grafana would: on the inner network alone, by its name."""
    stack, name = site.stack, f"{site.stack.name}-grafana"
    network = ("--network", f"{stack.name}_inner", "--network-alias", "grafana")
    image = ("--entrypoint", "python", "cxr-backlog/flower:0.1.0", "-u", "-c", ECHO)
    command = [*stack.docker, "run", "--rm", "--detach", "--name", name, *network, *image]
    subprocess.run(command, check=True, capture_output=True)
    yield name
    subprocess.run([*stack.docker, "kill", name], check=True, capture_output=True)


def test_grafana_is_reached_by_the_one_log_in_alone(site: Site, grafanas_place: str) -> None:
    wait_until(lambda: site.get("/grafana/").status_code == 200, 60, "nginx finds it")
    for login in (None, (site.login[0], "wrong"), ("cxr", site.stack.settings["CXR_GRAFANA_PASSWORD"])):
        for method in ("GET", "POST"):
            url = f"{site.url}/grafana/unseen"
            answer = requests.request(method, url, auth=login, timeout=30, allow_redirects=False)
            assert answer.status_code == 401, (method, login)
    asked = site.get("/grafana/d/cxr-backlog?var-run=a%20b").json()
    assert asked["path"] == "/d/cxr-backlog?var-run=a%20b"
    headers = {name.lower(): value for name, value in asked["headers"].items()}
    inner = base64.b64encode(f"cxr:{site.stack.settings['CXR_GRAFANA_PASSWORD']}".encode()).decode()
    assert headers["authorization"] == f"Basic {inner}"  # Grafana's own, whatever the user typed
    assert headers["host"] == f"127.0.0.1:{site.port}"
    assert headers["x-forwarded-proto"] == "http"
    more = {"Connection": "Upgrade", "Upgrade": "websocket"}
    live = requests.get(f"{site.url}/grafana/api/live/ws", auth=site.login, headers=more, timeout=30).json()
    assert (live["headers"]["Upgrade"], live["headers"]["Connection"]) == ("websocket", "upgrade")
    log = subprocess.run([*site.stack.docker, "logs", grafanas_place], capture_output=True, text=True)
    assert "/d/cxr-backlog" in log.stderr
    assert "unseen" not in log.stdout + log.stderr


def test_nothing_else_of_a_runs_folder_is_served(site: Site) -> None:
    folder = site.stack.run_folder("seen")
    (folder / "validation.html").symlink_to("ledger.sqlite")
    for path in (
        *("ledger.sqlite", "logs/", "progress.json", "", "summary.html/", "../seen/ledger.sqlite"),
        *("..%2fseen%2fledger.sqlite", "validation.html", "%2e%2e/.runner.json"),
    ):
        request = requests.Request("GET", f"{site.url}/runs/seen/{path}", auth=site.login).prepare()
        request.url = f"{site.url}/runs/seen/{path}"  # as it stands
        answer = requests.Session().send(request, timeout=30, allow_redirects=False)
        assert answer.status_code in (400, 403, 404), path
    (folder / "validation.html").unlink()


@pytest.mark.parametrize("path", ["/viewer/", "/viewer/app-config.js", "/dicom-web/studies", "/"])
def test_pages_are_isolated_from_other_sites(site: Site, path: str) -> None:
    headers = site.get(path).headers
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_dicomweb_names_this_site_and_no_inner_one(site: Site) -> None:
    study, series = site.series("image")
    answer = site.get(f"/dicom-web/studies/{study}/series/{series}/metadata")
    assert answer.status_code == 200
    assert "orthanc:8042" not in answer.text
    assert "orthanc:8042" not in site.get("/dicom-web/studies").text


@pytest.fixture(scope="module")
def browser(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    need("chromium")
    with Browser(tmp_path_factory.mktemp("chromium"), webgl=True) as opened:
        # As after a user has typed them: Chromium keeps a log-in for all that comes from the site, its workers too.
        name, password = site.login
        opened.visit(f"http://{name}:{password}@127.0.0.1:{site.port}/")
        yield opened


#: How many different colours the largest picture in the page has: a black viewport has one.
COLOURS = """(() => {
  const all = [...document.querySelectorAll('canvas')].filter(one => one.width > 200);
  if (!all.length) return 0;
  const small = new OffscreenCanvas(64, 64).getContext('2d');
  small.drawImage(all[0], 0, 0, 64, 64);
  return new Set(new Uint32Array(small.getImageData(0, 0, 64, 64).data.buffer)).size;
})()"""


#: What the page, though not its workers, has asked for above the viewer's own folder and Orthanc's DICOMweb.
FOREIGN = """performance.getEntriesByType('resource').map(one => one.name).filter(
  one => !one.startsWith('blob:') && !one.startsWith(origin + '/viewer/') && !one.startsWith(origin + '/dicom-web/'))"""


@pytest.mark.parametrize("modality", ["image", "SR"])
def test_the_viewer_shows_images_and_reports(site: Site, browser: Browser, modality: str) -> None:
    study, series = site.series(modality)
    address = f"{site.url}/viewer/viewer?StudyInstanceUIDs={study}&initialSeriesInstanceUID={series}"
    events = browser.visit(address)
    assert browser.evaluate("window.crossOriginIsolated")
    if modality == "image":
        wait_until(lambda: browser.evaluate(COLOURS) > 30, what="the radiograph is drawn")
    else:
        wait_until(lambda: "SR" in browser.evaluate("document.body.innerText"), what="the report is listed")
    time.sleep(5)  # whatever comes with it, as the thumbnails of the other series
    if modality == "image":  # a report without regions is OHIF's own trouble (its issues 1215, 4404)
        assert "went wrong" not in browser.evaluate("document.body.innerText")
    assert browser.evaluate(FOREIGN) == []
    (site.stack.folder / f"viewer-{modality}.png").write_bytes(browser.picture())
    asked = [
        one["params"]["request"]["url"] for one in events if one.get("method") == "Network.requestWillBeSent"
    ]
    assert all(url.startswith((site.url, "data:", "blob:")) for url in asked), asked
    failed = [
        (one["params"]["response"]["url"], one["params"]["response"]["status"])
        for one in events
        if one.get("method") == "Network.responseReceived" and one["params"]["response"]["status"] >= 400
    ]
    assert not failed


@pytest.mark.parametrize("path", ["/", "/runs/seen/summary.html", "/orthanc/app/explorer.html"])
def test_pages_open_in_a_browser_on_a_screen_and_a_phone(site: Site, browser: Browser, path: str) -> None:
    for width in (1200, 400):
        browser.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        browser.visit(site.url + path)
        if path != "/orthanc/app/explorer.html":
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        name = path.strip("/").replace("/", "-") or "entry"
        (site.stack.folder / f"page-{name}-{width}.png").write_bytes(browser.picture())
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_over_tls_the_same_is_shown_and_nothing_in_plain(site: Site) -> None:
    stack, port = site.stack, free_port()
    subprocess.run(["sh", "deploy/tls.sh"], cwd=stack.folder, check=True)
    stack.configure(
        CXR_TLS=str(stack.folder / "tls"), CXR_VIEWER_TLS_BIND="127.0.0.1", CXR_VIEWER_TLS_PORT=str(port)
    )
    more = ("--profile", "viewer", "up", "--detach", "--wait")
    stack.compose(*more, "viewer", overlay="viewer-tls.yml")
    secure, authority = f"https://127.0.0.1:{port}", str(stack.folder / "tls" / "ca.crt")
    try:
        assert requests.get(f"{secure}/", verify=authority, timeout=30).status_code == 401
        page = requests.get(f"{secure}/", verify=authority, auth=site.login, timeout=30)
        assert "runs/seen/summary.html" in page.text
        system = requests.get(f"{secure}/orthanc/system", verify=authority, auth=site.login, timeout=30)
        assert system.json()["Name"] == "cxr-backlog"
        with pytest.raises(requests.exceptions.SSLError):
            requests.get(f"{secure}/", auth=site.login, timeout=30)
        with pytest.raises(requests.ConnectionError):
            requests.get(f"{site.url}/", auth=site.login, timeout=30)
        plain = requests.get(f"http://127.0.0.1:{port}/", timeout=30, allow_redirects=False)
        assert (plain.status_code, plain.headers["Location"]) == (301, f"{secure}/")
    finally:
        stack.compose(*more, "viewer")
