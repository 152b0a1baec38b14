"""A terminal's screen as a picture file: a GIF that moves, an SVG that does not."""

import io
from collections.abc import Iterable
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from rich.color import ColorType
from rich.console import Console, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import TerminalTheme

from microdlm.runs import atomic

PAPER, INK, DIM = "#ffffff", "#1f2328", "#8a9099"
SIZE = 24  # pixels of a character's height; a README shows it at half that
THEME = TerminalTheme((255, 255, 255), (31, 35, 40), [(31, 35, 40)] * 8)


def paper(columns: int) -> Console:
    """A console that writes to nowhere, in all colours, `columns` wide."""
    return Console(
        width=columns,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        record=True,
        legacy_windows=False,
    )


def draw(screen: RenderableType, columns: int, rows: int) -> Image.Image:
    """The screen as pixels, in the font that matplotlib brings along."""
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    fonts = {bold: ImageFont.truetype(folder / f"DejaVuSansMono{'-Bold' * bold}.ttf", SIZE) for bold in (False, True)}
    across, down = fonts[False].getlength("M"), sum(fonts[False].getmetrics())  # so that box lines meet
    margin = SIZE
    image = Image.new("RGB", (round(columns * across) + 2 * margin, round(rows * down) + 2 * margin), PAPER)
    pen, console = ImageDraw.Draw(image), paper(columns)
    for row, line in enumerate(console.render_lines(screen, pad=True)[:rows]):
        column = 0
        for segment in line:
            place = margin + column * across, margin + row * down
            write(pen, segment, place, (segment.cell_length * across, down), fonts)
            column += segment.cell_length
    return image


def write(pen: ImageDraw.ImageDraw, segment: Segment, place, size, fonts) -> None:
    """One run of characters of one style, its top left corner at `place`."""
    style, (x, y), (width, height) = segment.style or Style(), place, size
    if style.bgcolor is not None:
        pen.rectangle([x, y, x + width, y + height], fill=colour(style.bgcolor, PAPER))
    ink = DIM if style.dim else colour(style.color, INK)
    pen.text((x, y), segment.text, fill=ink, font=fonts[bool(style.bold)])
    if style.underline:
        pen.line([x, y + height * 0.95, x + width, y + height * 0.95], fill=ink, width=2)


def colour(of, default: str) -> str:
    if of is None or of.type == ColorType.DEFAULT:
        return default
    return of.get_truecolor(THEME).hex


def save_gif(frames: Iterable[tuple[RenderableType, float]], path: Path, columns: int, rows: int) -> None:
    """Screens, and for how many seconds each is shown. One palette for all, so that nothing shimmers."""
    screens, seconds = zip(*frames, strict=True)
    images = [draw(screen, columns, rows) for screen in screens]
    palette = images[len(images) // 2].quantize(64)
    flat = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    with atomic(path) as beside:
        durations = [round(1000 * s) for s in seconds]
        flat[0].save(beside, "GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=True)


def save_svg(screen: RenderableType, path: Path, columns: int, title: str) -> None:
    console = paper(columns)
    console.print(screen)
    with atomic(path) as beside:
        beside.write_text(console.export_svg(title=title, theme=THEME, code_format=SVG), encoding="utf-8")


# rich's own frame draws a window around it and asks a server for a font; this one does neither.
SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="microDLM">
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
{styles}
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
<defs>{lines}</defs>
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""
