"""The command line, called in this process."""

from types import SimpleNamespace

import pytest

from mereq_min.lab.commands.main import main


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """The working directory of `call`; a module may have one of its own."""
    return tmp_path


@pytest.fixture(name="call")
def _call(folder, monkeypatch, capsys):
    """What `mereq` does in `folder`, in this process: starting another takes longer than most commands."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments):
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        said = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=said.out, stderr=said.err)

    return call
