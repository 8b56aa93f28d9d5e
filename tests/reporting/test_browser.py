"""The page in a headless Chromium: it loads without errors, charts are drawn, and every control works.

Skipped without a Chromium; tests/reporting/browser.py says where it looks for one, and `make test` downloads it.
Each test takes a second or two, the file about a minute.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from repre.errors import RunError
from repre.reporting import write_comparison, write_report
from repre.training.failure_record import record_failure
from tests.reporting import browser as chromium
from tests.reporting import fake_run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; it is part of repre[dev]")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with chromium.started() as running:
        if running is None:
            pytest.skip(f"no browser: none of {', '.join(chromium.NAMES)} is installed, and none could be downloaded")
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    runs = [fake_run.make_run(folder / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    fake_run.add_alarm(runs[0], monitor=fake_run.CLOSING, cause=fake_run.HOSTILE)
    fake_run.add_evaluation(runs[0])
    fake_run.add_comparison(folder / "compared", start=str(runs[0]))
    bare = folder / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text("seed: 0\n")
    failed = fake_run.make_run(folder / "a run with a long name that diverged", seed=2)
    (failed / "summary.json").unlink()
    error = RunError("step 84 is not finite", kind="diverged", step=84)
    record_failure(failed, {"optim": {"lr": 1.0}}, error, kind="diverged", step=83, total=600)
    return {
        "failed": write_report(failed),
        "run": write_report(runs[0]),
        "comparison": write_comparison(runs, folder / "compared" / "report.html"),
        "bare": write_report(bare),
        "folder": runs[0],
    }


class OpenPage:
    """A page with its console messages, errors and requests."""

    def __init__(self, browser: "sync_api.Browser", path: Path, *, width: int = 1280, theme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.messages.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]", state="attached", timeout=10_000)


@pytest.fixture
def opened(browser: "sync_api.Browser", pages: dict[str, Path]) -> Iterator[OpenPage]:
    opened = OpenPage(browser, pages["run"])
    yield opened
    errors = [message for message in opened.messages if message.startswith("error")]  # reading a canvas back only warns
    assert errors == []
    opened.page.close()


@pytest.mark.parametrize("name", ["run", "comparison", "bare"])
def test_it_loads_without_messages_and_requests(browser: "sync_api.Browser", pages: dict[str, Path], name: str) -> None:
    opened = OpenPage(browser, pages[name])
    opened.page.wait_for_timeout(100)
    assert opened.messages == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [pages[name].as_uri()]
    assert opened.page.evaluate("window.hurt") is None
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).length"
    assert opened.page.evaluate(broken) == 0
    opened.page.close()


def test_the_policy_forbids_the_network(browser: "sync_api.Browser", pages: dict[str, Path]) -> None:
    opened = OpenPage(browser, pages["run"])
    blocked = opened.page.evaluate(
        """() => new Promise((done) => {
            const seen = [];
            document.addEventListener("securitypolicyviolation", (e) => {
                if (seen.push(e.effectiveDirective) === 3) done(seen);
            });
            fetch("http://127.0.0.1:9/x").catch(() => {});
            new Image().src = "http://127.0.0.1:9/x.png";
            const script = document.createElement("script");
            script.textContent = "window.hurt = 1";
            document.body.append(script);
            setTimeout(() => done(seen), 3000);
        })"""
    )  # fmt: skip
    assert sorted(blocked) == ["connect-src", "img-src", "script-src-elem"]
    assert opened.page.evaluate("window.hurt") is None
    opened.page.close()


# -------------------------------------------------------------------------------------------------------- charts


@pytest.mark.parametrize("name", ["run", "comparison"])
def test_every_chart_is_drawn_with_finite_coordinates(
    browser: "sync_api.Browser", pages: dict[str, Path], name: str
) -> None:
    opened = OpenPage(browser, pages[name])
    specs = json.loads(opened.page.text_content("#report-data") or "")["charts"]
    charts = opened.page.locator("[data-chart]")
    assert charts.count() == len(specs) > 5
    for number, spec in enumerate(specs):
        paths = charts.nth(number).locator("path.line:not(.raw)").evaluate_all("p => p.map(e => e.getAttribute('d'))")
        assert len(paths) == len(spec["series"])
        for path, series in zip(paths, spec["series"]):
            assert re.fullmatch(r"M-?[\d.]+ -?[\d.]+(L-?[\d.]+ -?[\d.]+)*", path)
            assert path.count("L") == len(series["x"]) - 1
        box = charts.nth(number).locator("svg").bounding_box()
        assert box is not None
        assert box["width"] > 150
    opened.page.close()


def chart(opened: OpenPage, title: str) -> "sync_api.Locator":
    return opened.page.locator(".chart", has=opened.page.get_by_role("heading", name=title, exact=True))


def test_a_chart_shows_values_by_pointer_and_by_key(opened: OpenPage) -> None:
    plot = chart(opened, "Labeled probes").locator(".plot")
    plot.focus()
    opened.page.keyboard.press("End")
    assert plot.locator(".tip").inner_text().split() == ["step", "200", "k-NN", "on", "the", "scenes", "60", "%"]
    opened.page.keyboard.press("ArrowLeft")
    assert "step 150" in plot.locator(".tip").inner_text()
    opened.page.keyboard.press("Escape")
    assert plot.locator(".tip").is_hidden()
    plot.scroll_into_view_if_needed()
    plot.hover(position={"x": 50, "y": 60})
    assert "20 %" in plot.locator(".tip").inner_text()


def test_smoothing_scale_and_legend_change_the_lines(opened: OpenPage) -> None:
    losses = chart(opened, "Losses")

    def drawn() -> list[str]:
        return losses.locator("path.line:not(.raw)").evaluate_all("p => p.map(e => e.getAttribute('d'))")

    smooth = drawn()
    assert losses.locator("path.raw").count() == 3
    opened.page.get_by_label("Smoothing").fill("0")
    raw = drawn()
    assert raw != smooth
    assert losses.locator("path.raw").count() == 0
    opened.page.get_by_role("button", name="Logarithmic axes").click()
    assert drawn() != raw
    losses.get_by_role("button", name="contrastive").click()
    assert len(drawn()) == 2


# ------------------------------------------------------------------------------------------------------ images


def test_the_slider_and_play_show_other_steps(opened: OpenPage) -> None:
    film = opened.page.locator(".film")
    last = film.locator("figure img:last-child").first
    range_, output = film.locator("input[type=range]"), film.locator("output")
    assert output.inner_text().startswith("step 200, PSNR")
    before = last.get_attribute("src")
    range_.focus()
    opened.page.keyboard.press("ArrowLeft")
    assert output.inner_text().startswith("step 150, PSNR")
    assert last.get_attribute("src") != before
    opened.page.keyboard.press("End")
    assert last.get_attribute("src") == before
    film.get_by_role("button", name="Play").click()
    assert output.inner_text().startswith("step 0, PSNR")
    sync_api.expect(output).to_contain_text("step 200", timeout=10_000)
    assert film.get_by_role("button", name="Play").get_attribute("aria-pressed") == "false"


def heat(opened: OpenPage, image: int) -> list[int]:
    script = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    return opened.page.locator(".map canvas.heat").nth(image).evaluate(script)


def test_a_click_on_a_patch_shows_similar_patches(opened: OpenPage, pages: dict[str, Path]) -> None:
    with np.load(pages["folder"] / "snapshots" / "features.npz") as archive:
        patches = archive["patches"].astype(float)
    patches /= np.linalg.norm(patches, axis=-1, keepdims=True)
    before = heat(opened, 5)
    target = opened.page.locator(".map").nth(2)
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    target.click(position={"x": box["width"] * 0.6, "y": box["height"] * 0.1})  # row 1, column 3 of 4
    assert heat(opened, 5) != before
    cosines = patches @ patches[2, 0, 2]
    cosines[2] = -2
    image, row, column = np.unravel_index(cosines.argmax(), cosines.shape)
    readout = opened.page.locator(".readout").inner_text()
    assert readout.startswith("Image 3, row 1, column 3.")
    assert readout.endswith(f"image {image + 1}, row {row + 1}, column {column + 1}, cosine {cosines.max():.2f}.")
    opacity = np.array(heat(opened, int(image))).reshape(fake_run.GRID, fake_run.GRID, 4)[..., 3]
    assert np.unravel_index(opacity.argmax(), opacity.shape) == (row, column)


def test_patches_are_selected_by_key(opened: OpenPage) -> None:
    opened.page.locator(".map").nth(1).focus()
    opened.page.keyboard.press("Enter")
    readout = opened.page.locator(".readout")
    assert readout.inner_text().startswith("Image 2, row 3, column 3.")
    before = heat(opened, 0)
    opened.page.keyboard.press("ArrowUp")
    opened.page.keyboard.press("ArrowRight")
    assert readout.inner_text().startswith("Image 2, row 2, column 4.")
    opened.page.keyboard.press("ArrowRight")  # the edge holds
    assert readout.inner_text().startswith("Image 2, row 2, column 4.")
    assert heat(opened, 0) != before


def test_runs_side_by_side_select_the_same_patch(browser: "sync_api.Browser", pages: dict[str, Path]) -> None:
    opened = OpenPage(browser, pages["comparison"])
    opened.page.locator(".similarity").nth(0).locator(".map").nth(3).focus()
    opened.page.keyboard.press("Enter")
    opened.page.keyboard.press("ArrowUp")
    readouts = opened.page.locator(".readout").all_inner_texts()
    assert len(readouts) == 2
    assert all(text.startswith("Image 4, row 2, column 3.") for text in readouts)
    opened.page.close()


def test_colors_are_mixed_over_the_images(opened: OpenPage) -> None:
    top = opened.page.locator("#colors .mixed img:last-child").first
    assert top.evaluate("e => getComputedStyle(e).opacity") == "1"
    opened.page.get_by_label("Opacity of the colors").fill("40")
    assert top.evaluate("e => getComputedStyle(e).opacity") == "0.4"


# --------------------------------------------------------------------------------------------- theme, width, keys


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(
    browser: "sync_api.Browser", pages: dict[str, Path], theme: str
) -> None:
    opened = OpenPage(browser, pages["run"], theme=theme)
    ground = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    button = opened.page.get_by_role("button", name="Dark")
    assert (opened.page.evaluate(ground) < 60) == (theme == "dark")
    assert button.get_attribute("aria-pressed") == str(theme == "dark").lower()
    button.click()
    assert (opened.page.evaluate(ground) < 60) == (theme == "light")
    assert button.get_attribute("aria-pressed") == str(theme == "light").lower()
    opened.page.close()


@pytest.mark.parametrize("name", ["run", "comparison", "bare"])
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(
    browser: "sync_api.Browser", pages: dict[str, Path], name: str, width: int
) -> None:
    opened = OpenPage(browser, pages[name], width=width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.page.evaluate("document.body.scrollWidth") <= width
    opened.page.close()


@pytest.mark.parametrize("name", ["run", "comparison", "bare", "failed"])
def test_nothing_is_cut_on_a_phone(browser: "sync_api.Browser", pages: dict[str, Path], name: str) -> None:
    """No element ends outside the window, and no table, picture row or menu has to be moved sideways."""
    opened = OpenPage(browser, pages[name], width=360)
    cut = opened.page.evaluate(
        """() => [...document.querySelectorAll('main *, nav, nav *, header *')].filter((e) => {
            const box = e.getBoundingClientRect();
            if (!box.width || e.closest('thead')) return false;
            const moves = getComputedStyle(e).overflowX !== 'visible' && e.scrollWidth > e.clientWidth + 1;
            return box.right > innerWidth + 1 || box.left < -1 || moves;
        }).map((e) => `${e.tagName}.${e.className}`)"""
    )
    assert cut == []
    opened.page.close()


def test_the_first_tab_skips_to_the_report(opened: OpenPage) -> None:
    opened.page.keyboard.press("Tab")
    assert opened.page.evaluate("document.activeElement.textContent") == "Skip to the report"
    opened.page.keyboard.press("Enter")
    assert opened.page.evaluate("document.activeElement.id") == "main"


def test_everything_with_focus_has_a_name(opened: OpenPage) -> None:
    nameless = """[...document.querySelectorAll("a, button, input, summary, [tabindex='0']")].filter(
        (e) => !(e.getAttribute("aria-label") || e.textContent.trim() || (e.labels && e.labels[0].textContent.trim()))
        ).length"""
    assert opened.page.evaluate(nameless) == 0
    assert opened.page.evaluate("[...document.images].filter(i => i.getAttribute('alt') === null).length") == 0


def contrast(first: list[float], second: list[float]) -> float:
    """The contrast ratio of two colors (WCAG 2.2)."""

    def luminance(color: list[float]) -> float:
        linear = [c / 3294.6 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_enough_contrast(browser: "sync_api.Browser", pages: dict[str, Path], theme: str) -> None:
    opened = OpenPage(browser, pages["run"], theme=theme)
    read = """(name) => { const e = document.createElement("i"); e.style.color = `var(${name})`; document.body.append(e);
        return getComputedStyle(e).color.match(/[\\d.]+/g).map(Number); }"""
    colors = {name: opened.page.evaluate(read, f"--{name}") for name in
               ("ink", "soft", "accent", "good", "bad", "limit", "unknown", "note", "paper", "card")}  # fmt: skip
    for name in ("ink", "soft", "accent", "good", "bad", "limit", "unknown", "note"):
        for ground in ("paper", "card"):
            assert contrast(colors[name], colors[ground]) >= 4.5, (name, ground)
    opened.page.close()


def test_the_configuration_is_searched(opened: OpenPage) -> None:
    field = opened.page.get_by_label("Search")
    field.fill("lr")
    visible = opened.page.locator("[data-setting]:visible").all_inner_texts()
    assert [text.split()[0] for text in visible] == ["optim.lr"]
    field.fill("no such thing")
    assert opened.page.get_by_text("No setting matches.").is_visible()
    field.fill("")
    assert opened.page.get_by_text("No setting matches.").is_hidden()


def test_it_prints_light_and_without_its_controls(browser: "sync_api.Browser", pages: dict[str, Path]) -> None:
    opened = OpenPage(browser, pages["run"], theme="dark")
    opened.page.emulate_media(media="print")
    assert opened.page.locator("nav").is_hidden()
    assert opened.page.locator(".tools").first.is_hidden()
    printed = opened.page.pdf()
    assert printed.startswith(b"%PDF")
    assert opened.page.evaluate("document.documentElement.dataset.theme") == "dark"  # put back
    opened.page.close()


def test_images_are_those_of_the_run(opened: OpenPage, pages: dict[str, Path]) -> None:
    encoded = opened.page.locator("#levels td img").first.evaluate(
        """(img) => {
            const c = document.createElement("canvas");
            [c.width, c.height] = [img.naturalWidth, img.naturalHeight];
            const x = c.getContext("2d"); x.drawImage(img, 0, 0);
            return btoa(String.fromCharCode(...x.getImageData(0, 0, c.width, c.height).data)); }"""
    )
    with np.load(pages["folder"] / "snapshots" / "features.npz") as archive:
        image = archive["images"][0]
    pixels = np.frombuffer(base64.b64decode(encoded), np.uint8).reshape(fake_run.SIDE, fake_run.SIDE, 4)[..., :3]
    assert np.abs(pixels.astype(int) - image).mean() < 6
