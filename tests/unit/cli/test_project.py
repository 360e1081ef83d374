"""Projects: which folder an argument means, and what dev keeps in it."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli.errors import CANNOT_START, USAGE, CliError
from server.cli.project import Project, shown


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(folder: Path, *files: str) -> Path:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_nothing_named_is_the_current_folder(here: Path) -> None:
    assert Project.at(None).folder == here


@pytest.mark.parametrize("files", [("parley.toml",), ("flows/a.yaml",), ("parley.toml", "flows/a.yaml"), ()])
def test_a_folder_is_a_project(here: Path, files: tuple[str, ...]) -> None:
    (here / "shop").mkdir()
    made(here / "shop", *files)
    project = Project.at(Path("shop"))
    assert (project.folder, project.flows) == (here / "shop", None)


def test_its_settings_file_names_a_project_too(here: Path) -> None:
    made(here / "shop", "parley.toml")
    assert Project.at(Path("shop/parley.toml")).folder == here / "shop"


def test_a_folder_of_flow_files_belongs_to_the_current_folder(here: Path) -> None:
    made(here / "talks", "a.yaml")
    project = Project.at(Path("talks"))
    assert (project.folder, project.flows) == (here, here / "talks")
    assert project.settings({}).flows == here / "talks"


@pytest.mark.parametrize("place", ["nowhere", "a.yaml"])
def test_anything_else_is_refused(here: Path, place: str) -> None:
    made(here, "a.yaml")
    with pytest.raises(CliError) as caught:
        Project.at(Path(place))
    assert caught.value.exit_code == USAGE
    assert place in caught.value.message


def test_the_secret_is_made_once_and_kept_private(here: Path) -> None:
    project = Project(here)
    assert project.secret() is None
    project.make_state()
    secret = project.make_secret()
    assert len(secret) >= 32
    assert Project(here).make_secret() == secret == Project(here).secret()
    assert stat.S_IMODE((here / ".parley" / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((here / ".parley").stat().st_mode) == 0o700
    assert sorted(path.name for path in (here / ".parley").iterdir()) == [".gitignore", "secret"]


def test_a_secret_that_others_could_read_is_made_private(here: Path) -> None:
    project = Project(here)
    project.make_state()
    project.make_secret()
    (here / ".parley" / "secret").chmod(0o644)
    project.make_secret()
    assert stat.S_IMODE((here / ".parley" / "secret").stat().st_mode) == 0o600


def test_a_secret_is_private_whatever_the_mask_says(here: Path) -> None:
    before = os.umask(0)
    try:
        Project(here).make_state()
        Project(here).make_secret()
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / ".parley" / "secret").stat().st_mode) == 0o600


def test_what_dev_keeps_is_not_for_git(here: Path) -> None:
    Project(here).make_state()
    assert (here / ".parley" / ".gitignore").read_text() == "*\n"


BROKEN: dict[str, Callable[[Path], object]] = {
    "a file in its place": lambda folder: (folder / ".parley").write_text("x"),
    "a folder as the secret": lambda folder: (folder / ".parley" / "secret").mkdir(parents=True),
}


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=BROKEN)
def test_a_state_folder_that_cannot_be_used_is_a_sentence(
    here: Path, break_it: Callable[[Path], object]
) -> None:
    break_it(here)

    def begin() -> None:
        Project(here).make_state()
        Project(here).make_secret()

    with pytest.raises(CliError) as caught:
        begin()
    assert caught.value.exit_code == CANNOT_START
    assert ".parley" in caught.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_sentence(here: Path) -> None:
    here.chmod(0o500)
    try:
        with pytest.raises(CliError) as caught:
            Project(here).make_state()
    finally:
        here.chmod(0o700)
    assert "permission" in caught.value.message


def test_the_address_of_dev_is_found_and_forgotten(here: Path) -> None:
    project = Project(here)
    project.make_state()
    assert project.address() is None
    project.write_address("http://127.0.0.1:9")
    assert Project(here).address() == "http://127.0.0.1:9"
    project.forget_address()
    assert project.address() is None


def test_the_address_of_another_dev_is_left_alone(here: Path) -> None:
    project = Project(here)
    project.make_state()
    (here / ".parley" / "dev.json").write_text('{"url": "http://127.0.0.1:9", "pid": 1}')
    project.forget_address()
    assert project.address() == "http://127.0.0.1:9"


@pytest.mark.parametrize("text", ["", "[]", "{}", "no json"])
def test_a_damaged_address_is_none(here: Path, text: str) -> None:
    project = Project(here)
    project.make_state()
    (here / ".parley" / "dev.json").write_text(text)
    assert project.address() is None
    project.forget_address()


def test_paths_are_shown_as_one_would_write_them(here: Path) -> None:
    assert shown(here / "a" / "b") == "a/b"
    assert shown(Path("/etc/x")) == "/etc/x"


def test_a_command_is_shown_as_it_can_be_typed_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/x/server/__main__.py"])
    assert Project(here).command("chat") == "python -m server chat"
    assert Project(here / "my shop").command("token") == "python -m server token 'my shop'"
    monkeypatch.setattr("sys.argv", [str(here / ".venv/bin/parley")])
    assert Project(here).command("chat") == ".venv/bin/parley chat"
