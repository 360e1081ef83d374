"""What is built from this tree: the server's distribution and the client's."""

import json
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "parley_server": (ROOT, ("server", "protocol", "storage")),
    "parley_client": (ROOT / "clients" / "python", ("parley_client",)),
}


class Built:
    """One distribution's wheel and source archive."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.folder, self.packages = SOURCES[name]
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(directory)]
        done = subprocess.run([*command, str(self.folder)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = directory.glob("*.whl")
        (archive,) = directory.glob("*.tar.gz")
        with zipfile.ZipFile(wheel) as opened:
            self.files = {name: opened.read(name) for name in opened.namelist()}
        with tarfile.open(archive) as opened_archive:
            self.archived = {member.partition("/")[2] for member in opened_archive.getnames()}

    def of_dist_info(self, name: str) -> bytes:
        (path,) = (path for path in self.files if path.endswith(f".dist-info/{name}"))
        return self.files[path]

    @property
    def metadata(self) -> Message:
        return message_from_bytes(self.of_dist_info("METADATA"))


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    return {name: Built(name, tmp_path_factory.mktemp(name)) for name in SOURCES}


@pytest.fixture(params=sorted(SOURCES))
def built(request: pytest.FixtureRequest, builds: dict[str, Built]) -> Built:
    return builds[request.param]


@pytest.fixture
def server(builds: dict[str, Built]) -> Built:
    return builds["parley_server"]


def test_the_wheel_has_the_packages_and_nothing_else(built: Built) -> None:
    top = {name.partition("/")[0] for name in built.files if ".dist-info/" not in name}
    assert top == set(built.packages)


def test_every_module_of_the_sources_is_in_the_wheel(built: Built) -> None:
    source = built.folder / "src" if (built.folder / "src").is_dir() else built.folder
    modules = [path for package in built.packages for path in (source / package).rglob("*.py")]
    assert {str(path.relative_to(source)) for path in modules} <= built.files.keys()


def test_every_package_is_typed(built: Built) -> None:
    assert {f"{package}/py.typed" for package in built.packages} <= built.files.keys()


def test_nothing_is_in_the_wheel_that_was_made_at_run_time(built: Built) -> None:
    unwanted = ("__pycache__", ".pyc", ".db", ".parley")
    assert not [name for name in built.files if any(part in name for part in unwanted)]


def test_the_licence_comes_along(built: Built) -> None:
    text = built.of_dist_info("licenses/LICENSE").decode()
    assert "Apache License" in text
    assert built.metadata["License-Expression"] == "Apache-2.0"


def test_it_says_which_python_it_needs(built: Built) -> None:
    assert built.metadata["Requires-Python"] == ">=3.11"


def test_its_page_is_the_readme(built: Built) -> None:
    assert built.of_dist_info("METADATA").endswith((built.folder / "README.md").read_bytes())


def test_the_source_archive_has_what_a_build_needs(built: Built) -> None:
    assert {"pyproject.toml", "README.md", "LICENSE"} <= built.archived


def test_the_server_brings_the_command(server: Built) -> None:
    assert "parley = server.cli:main" in server.of_dist_info("entry_points.txt").decode().splitlines()


def test_the_schema_comes_along(server: Built) -> None:
    assert "protocol/schema.json" in server.files


def test_the_page_comes_along(server: Built) -> None:
    page = [path for path in (ROOT / "server" / "page").iterdir() if path.is_file()]
    assert {f"server/page/{path.name}" for path in page} <= server.files.keys()


def test_both_distributions_have_the_version_that_the_changelog_is_about(built: Built) -> None:
    version = built.metadata["Version"]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_locks_name_no_place_to_get_packages_from() -> None:
    for lock in ("requirements.lock", "requirements-dev.lock"):
        text = (ROOT / lock).read_text()
        assert not [word for word in ("://", "--index", "--extra-index", "--find-links") if word in text]


def test_the_lock_for_development_agrees_with_the_servers() -> None:
    assert _pins("requirements.lock").items() <= _pins("requirements-dev.lock").items()


def _pins(lock: str) -> dict[str, str]:
    lines = (line for line in (ROOT / lock).read_text().splitlines() if "==" in line)
    return {name: rest.partition(" ")[0] for name, _, rest in (line.partition("==") for line in lines)}


def test_the_server_brings_the_built_widget(server: Built) -> None:
    parts = json.loads(server.files["server/widget/files.json"])["parts"]
    for name in ("widget.js", *parts.values()):
        assert server.files[f"server/widget/{name}"] == (ROOT / "server" / "widget" / name).read_bytes()
        assert f"server/widget/{name}" in server.archived
