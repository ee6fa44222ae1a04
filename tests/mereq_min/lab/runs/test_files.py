"""Files: whole or not at all, never through a planted link, never more than was meant to be read."""

import os
import stat
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from mereq_min.lab.runs import files
from mereq_min.lab.runs.files import ArraysError, load_arrays, move_file, read_file, save_arrays, write_file


def test_a_planted_link_is_replaced_and_its_target_left_alone(tmp_path, monkeypatch):
    mine, file = tmp_path / "mine", tmp_path / "it.json"
    mine.write_text("years of work")
    file.symlink_to(mine)
    write_file(file, b"new")
    assert mine.read_text() == "years of work"
    assert not file.is_symlink()
    assert file.read_bytes() == b"new"
    monkeypatch.setattr(files.secrets, "token_hex", lambda n: "known")
    for plant in (os.symlink, os.link):
        plant(mine, tmp_path / ".it.json.known.part")
        with pytest.raises(FileExistsError):
            write_file(file, b"newer")
        assert mine.read_text() == "years of work"
        (tmp_path / ".it.json.known.part").unlink()
    assert file.read_bytes() == b"new"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    file = tmp_path / "it"
    write_file(file, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_file(file, b"new")
    assert [each.name for each in tmp_path.iterdir()] == ["it"]
    assert file.read_bytes() == b"old"


def test_many_threads_write_one_file_and_it_is_always_whole(tmp_path):
    file, errors = tmp_path / "deep/er/it", []
    texts = [bytes([65 + i]) * 5_000 for i in range(4)]

    def write(text):
        try:
            for _ in range(20):
                write_file(file, text)
                assert file.read_bytes() in texts
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [each.name for each in file.parent.iterdir()] == ["it"]


def test_names_reach_the_disk_after_contents(tmp_path, monkeypatch):
    """The order that survives a power cut: contents, then the name, each waited for."""
    done, real = [], (os.fsync, os.replace)

    def fsync(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "contents")
        real[0](descriptor)

    def replace(old, new):
        done.append("name")
        real[1](old, new)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_file(tmp_path / "new/it", b"it")
    assert done == ["folder", "contents", "name", "folder"]
    move_file(tmp_path / "new/it", tmp_path / "new/other")
    assert done[4:] == ["name", "folder"]


def test_a_file_is_as_readable_as_any_other(tmp_path):
    write_file(tmp_path / "it", b"it")
    (tmp_path / "other").write_bytes(b"it")
    assert (tmp_path / "it").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_no_more_is_read_than_was_meant(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(2**40)
    for name, reason in (
        ("pipe", "not a regular file"),
        ("zeros", "not a regular file"),
        ("huge", "more than the 9"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_file(tmp_path / name, 9)
        with pytest.raises(ArraysError, match=rf"{name} is missing or damaged \(it "):
            load_arrays(tmp_path / name)
    (tmp_path / "small").write_bytes(b"123456789")
    assert read_file(tmp_path / "small", 9) == b"123456789"


WHOLE = save({"x": np.arange(6.0).reshape(2, 3), "y": np.array([True, False])})


def header(text):
    return len(text).to_bytes(8, "little") + text


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(header)))
def test_bytes_are_arrays_or_an_error_that_names_the_file(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.safetensors"
    file.write_bytes(data)
    try:
        arrays = load_arrays(file)
    except ArraysError as error:
        assert "any.safetensors is missing or damaged" in str(error)
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())


@given(st.integers(0, 8 * len(WHOLE) - 1))
def test_a_flipped_bit_is_found_by_the_hash(tmp_path_factory, bit):
    file = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    sha256 = save_arrays(file, load_whole(file))
    assert set(load_arrays(file, sha256=sha256)) == {"x", "y"}
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    with pytest.raises(ArraysError, match=r"flipped.safetensors is missing or damaged"):
        load_arrays(file, sha256=sha256)


def load_whole(file):
    file.write_bytes(WHOLE)
    return load_arrays(file)


@pytest.mark.parametrize(
    "text",
    [
        b'{"x":{"dtype":"F64","shape":[9223372036854775808,0],"data_offsets":[0,0]}}',
        b'{"x":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
        b'{"x":{"dtype":"F64","shape":[' + b"1," * 99 + b'1],"data_offsets":[0,8]}}' + bytes(8),
        b'{"x":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}' + bytes(1),
        b'{"\xff":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}}' + bytes(8),
        b'{"x":' * 5_000,
        b"[]",
        b"null",
        b"{}" + b" " * 2**20,
    ],
)
def test_headers_that_promise_too_much_are_errors(tmp_path, text):
    file = tmp_path / "it.safetensors"
    length = text.find(b"}}") + 2 if b"}}" in text else len(text)
    for data in (length.to_bytes(8, "little") + text, (2**63).to_bytes(8, "little") + text):
        file.write_bytes(data)
        if text.startswith(b"{} ") and data.startswith(header(text)[:8]):
            assert load_arrays(file) == {}
            continue
        with pytest.raises(ArraysError, match=r"it.safetensors is missing or damaged"):
            load_arrays(file)
