"""The picture that a link to the page shows: python web/picture.py, after `make web`; writes web/og.png.

The race of frames.json at a third of its passes, as the page draws it.
"""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

WEB = Path(__file__).parent
LOOK = """
  :is(#settings, .status-line, .transport, .site-header nav, .lane details, .lane .note) { display: none !important }
  main > section:not(#race), #race > :is(.outcome, .below, .hint) { display: none !important }
  html { overflow: hidden } main, body > header { padding-inline: 3.5rem !important } body { zoom: 1.12 }
  .lanes { border-width: 1px; border-radius: 14px } .page { font-size: 1.05rem } #race .hero { margin: 1.2rem 0 2rem }
"""
SEEK = "t => { t.value = t.max * 0.4; t.dispatchEvent(new Event('input')) }"


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=WEB))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1200, "height": 630}, bypass_csp=True, reduced_motion="reduce")
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector(".lane.gpt .char")
        page.wait_for_timeout(500)
        page.add_style_tag(content=LOOK)
        page.eval_on_selector("#time", SEEK)
        page.screenshot(path=WEB / "og.png")
        browser.close()


if __name__ == "__main__":
    main()
