"""The real page in real browsers, without hands or ears: a recording is the microphone, the embedded model answers."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time

import numpy as np
import pytest
import soundfile

for _package in ("uvicorn", "websockets", "soxr"):
    pytest.importorskip(_package, reason="pip install -e '.[serve]'")
from clients import server, user  # noqa: E402
from pulse import Pulse, skip_without_pulse  # noqa: E402

from duplex.audio import write_wav  # noqa: E402

pytestmark = pytest.mark.live
SHOT = os.environ.get("DUPLEX_SCREENSHOTS")
"""A folder for pictures of the page, where they are wanted."""


def test_chromium_hears_an_answer_and_shows_its_words(tmp_path):
    browser_path = shutil.which("chromium") or pytest.skip("no chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install -e '.[clients]'")
    write_wav(tmp_path / "microphone.wav", user(40.0))
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
             f"--use-file-for-fake-audio-capture={tmp_path / 'microphone.wav'}%noloop"]
    with server("--slots", "1") as port, playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=browser_path, headless=True, args=flags)
        context = browser.new_context(viewport={"width": 1100, "height": 900}, permissions=["microphone"], accept_downloads=True)
        page = context.new_page()
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(f"http://localhost:{port}/")
        page.click("#talk")
        page.wait_for_selector("#status[data-state=live]", timeout=60_000)
        page.wait_for_selector("#transcript li.system", timeout=60_000)
        page.wait_for_timeout(32_000 if SHOT else 9_000)
        if SHOT:
            page.screenshot(path=f"{SHOT}/page.png")
        stats = {name: page.inner_text(f"#stat-{name}") for name in ("trip", "server", "buffer", "answer", "lost")}
        words = page.inner_text("#transcript li.system")
        page.click("#talk")
        page.wait_for_selector("#status[data-state=idle]")
        assert page.inner_text("#status") == "ended"
        with page.expect_download() as saved:
            page.click("#save-audio")
        saved.value.save_as(tmp_path / "conversation.wav")
        phone(browser, port)
        browser.close()
    assert not problems and len(words.split()) >= 2
    assert all(stats[name].split()[0].replace(".", "").isdigit() for name in ("trip", "server", "buffer")), stats
    sound, rate = soundfile.read(tmp_path / "conversation.wav")
    assert rate == 24_000 and sound.shape[1] == 2 and len(sound) > 8 * 24_000
    assert np.abs(sound[:, 0]).max() > 0.05, "the system was not heard"
    assert np.abs(sound[:, 1]).max() > 0.05, "the microphone was not heard"


def phone(browser, port):
    """The page fits a phone: nothing sticks out sideways, and what is touched is large enough."""
    page = browser.new_context(viewport={"width": 360, "height": 740}, device_scale_factor=2, color_scheme="dark").new_page()
    page.goto(f"http://localhost:{port}/")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("document.getElementById('talk').getBoundingClientRect().height") >= 44
    if SHOT:
        page.screenshot(path=f"{SHOT}/phone.png", full_page=True)


class Marionette:
    """Just enough of Firefox's own remote control: length-prefixed JSON over TCP."""

    def __init__(self, port: int):
        deadline = time.monotonic() + 90
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
                break
            except OSError:
                assert time.monotonic() < deadline, "Firefox does not listen"
                time.sleep(0.3)
        self._number = 0
        self._read()
        self("WebDriver:NewSession")

    def _read(self):
        head = b""
        while not head.endswith(b":"):
            head += self._socket.recv(1)
        length, data = int(head[:-1]), b""
        while len(data) < length:
            data += self._socket.recv(length - len(data))
        return json.loads(data)

    def __call__(self, command: str, **values):
        self._number += 1
        data = json.dumps([0, self._number, command, values]).encode()
        self._socket.sendall(str(len(data)).encode() + b":" + data)
        _, _, error, result = self._read()
        assert error is None, error
        return result

    def js(self, script: str):
        return self("WebDriver:ExecuteScript", script=f"return {script}", args=[])["value"]


def test_firefox_converses(tmp_path):
    firefox = shutil.which("firefox-esr") or shutil.which("firefox") or pytest.skip("no firefox: apt-get install firefox-esr")
    skip_without_pulse()  # without any sound output its AudioContext never starts
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        control = free.getsockname()[1]
    preferences = {"media.navigator.streams.fake": True, "media.navigator.permission.disabled": True, "marionette.port": control,
                   "media.autoplay.default": 0, "browser.shell.checkDefaultBrowser": False}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in preferences.items()]
    (tmp_path / "user.js").write_text("\n".join(lines))
    pulse = Pulse(tmp_path)
    pulse.start()
    with server("--slots", "1", fake=True) as port:
        process = subprocess.Popen([firefox, "--headless", "--marionette", "--no-remote", "--profile", str(tmp_path)],
                                   env=pulse.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            browser = Marionette(control)
            browser("WebDriver:Navigate", url=f"http://localhost:{port}/")
            button = browser("WebDriver:FindElement", using="css selector", value="#talk")["value"]
            browser("WebDriver:ElementClick", id=next(iter(button.values())))
            deadline = time.monotonic() + 60
            while browser.js("document.querySelectorAll('#transcript li.system').length") == 0:
                assert time.monotonic() < deadline, browser.js("document.getElementById('status').textContent")
                time.sleep(0.3)
            assert browser.js("document.getElementById('status').dataset.state") == "live"
            time.sleep(3)
            assert browser.js("document.getElementById('stat-trip').textContent").endswith("ms")
            assert browser.js("document.getElementById('length').textContent") != ""
        finally:
            process.terminate()
            process.wait(30)
            pulse.stop()

