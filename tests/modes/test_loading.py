"""How modes are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfscale.errors import BadInputError
from tfscale.modes import load, names
from tfscale.modes.static import StaticMode


def install(folder: Path, name: str, target: str, source: str) -> None:
    """Lay out an installed package with one mode."""
    (folder / f"{target.partition(':')[0]}.py").write_text(source)
    info = folder / f"plugin_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plugin-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tfscale.modes]\n{name} = {target}\n")


def test_our_own_modes_are_found() -> None:
    """Both modes of this package are installed under their names."""
    assert {"ec2", "static"} <= set(names())
    assert load("static") is StaticMode
    assert load("ec2").name == "ec2"


@pytest.mark.parametrize(
    ("name", "near"), [("statik", "static\\?"), ("ec3", "ec2\\?"), ("EC2", "ec2\\?"), ("zzz", "one of ec2, ")]
)
def test_an_unknown_name_lists_the_known_ones(name: str, near: str) -> None:
    """The nearest name is suggested, where there is one."""
    with pytest.raises(BadInputError, match=f"gpupool a: spec.mode is '{name}'; want {near}"):
        load(name, where="gpupool a", field="spec.mode")


def test_a_mode_of_another_package_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry point is all it takes."""
    install(
        tmp_path, "lab", "lab_mode:Lab", "from tfscale.modes.static import StaticMode\nclass Lab(StaticMode):\n    name = 'lab'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    assert "lab" in names()
    assert load("lab").name == "lab"


@pytest.mark.parametrize(
    ("module", "source", "want"),
    [
        ("lacks_module", "import there_is_no_such_module", "a mode that can be imported"),
        ("breaks", "raise SystemError('broken')", "SystemError: broken"),
        ("no_class", "Mode = 7", "a scaling mode, which no_class:Mode is not"),
        ("lacks_name", "", "a mode that can be imported"),
    ],
)
def test_a_broken_plug_in_is_named_and_hurts_nobody_else(
    module: str, source: str, want: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own name gives one clear line; the other modes load."""
    install(tmp_path, "broken", f"{module}:Mode", source)
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(BadInputError, match=want):
        load("broken")
    assert load("static") is StaticMode


def test_two_packages_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them would win depends on the order of installation, so none does."""
    install(tmp_path, "static", "another_static:Mode", "Mode = 7")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(BadInputError, match="one package that brings it, not another_static:Mode, "):
        load("static")
