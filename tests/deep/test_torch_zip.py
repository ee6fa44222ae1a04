"""Files from strangers: whatever bytes they hold, they are read or refused in a sentence, at a bounded cost.

Costs are counted in calls of functions, not in seconds.
"""

import io
import json
import pickle
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zips import write_members

from deep import torch_zip
from deep.torch_zip import MAX_MEMBERS, MAX_NAME, open_archive, read_tensors, shorten

DATA = Path(__file__).parents[1] / "data"


class TooManySteps(BaseException):
    """Work goes on although it should have ended."""


def count_steps(function, *arguments, limit):
    """Call a function; returns what it returns or the ValueError that it raises, and its calls of functions.

    Raises:
        TooManySteps: as soon as there are more than `limit`, so that what would hang fails.
    """
    steps = 0

    def look(frame, event, argument):
        nonlocal steps
        steps += event in ("call", "c_call")
        if steps > limit:
            raise TooManySteps(f"more than {limit} calls")

    sys.setprofile(look)
    try:
        found = function(*arguments)
    except ValueError as error:
        found = error
    finally:
        sys.setprofile(None)
    return found, steps


def check_bounded(data):
    """Read tensors from a zip at a cost in proportion to its size; returns them, or the refusal."""
    found, _ = count_steps(read_tensors, data, limit=20_000 + 40 * len(data))
    if isinstance(found, ValueError):
        assert 0 < len(str(found)) < 1_000
        return str(found)
    assert all(isinstance(array, np.ndarray) for array in found.values())
    return found


def with_pickle(pickled, storage=bytes(16)):
    return write_members([("a/data.pkl", pickled), ("a/data/0", storage)])


ORDERED_DICT = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
TENSOR = REBUILD + b"(" + STORAGE + b"K\x00K\x04\x85K\x01\x85\x89" + ORDERED_DICT + b")RtR"


# --- Structures that are small to write and large to walk over --------------------------------------------


def doubling(levels, leaf=ORDERED_DICT):
    """Opcodes of a tuple that holds the same tuple twice, and so on, `levels` deep."""
    return leaf + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(levels))


USES = {
    "as a reference to a storage": b"Q.",
    "as a function": b")R.",
    "as arguments": None,
    "as a shape": None,
    "as the result": b".",
    "as an item": None,
}


def pickle_of_doubling(use, levels):
    tower = doubling(levels)
    if use == "as arguments":
        return b"\x80\x02" + ORDERED_DICT + tower + b"R."
    if use == "as a shape":
        rest = b"K\x01\x85\x89" + ORDERED_DICT + b")RtR."
        return b"\x80\x02" + REBUILD + b"(" + STORAGE + b"K\x00" + tower + rest
    if use == "as an item":
        return b"\x80\x02}" + tower + tower + b"s."
    return b"\x80\x02" + tower + USES[use]


@pytest.mark.parametrize("use", USES)
def test_a_tuple_that_doubles_with_each_level_is_refused_in_a_few_steps(use):
    data = with_pickle(pickle_of_doubling(use, 100))
    assert len(data) < 1_500
    found, steps = count_steps(read_tensors, data, limit=20_000)
    assert isinstance(found, ValueError)
    assert len(str(found)) < 500
    deeper = count_steps(read_tensors, with_pickle(pickle_of_doubling(use, 200)), limit=20_000)[1]
    assert deeper - steps < 80 * 100  # a few for each of the opcodes, and not twice as many for each level


def test_the_cost_of_showing_the_beginning_of_a_structure_does_not_depend_on_its_size():
    tower = "leaf"
    for _ in range(200):
        tower = (tower, tower)
    costs = [
        count_steps(shorten, value, limit=5_000)[1] for value in (tower, tower[0], {"a": [tower] * 10**5})
    ]
    assert max(costs) < 1_000
    assert shorten("x" * 10**7).startswith("'xxx")
    assert len(shorten("x" * 10**7)) <= 120
    assert shorten(10**20_000) == "a long integer"
    assert shorten(np.zeros((3, 4))) == "array of shape (3, 4)"
    assert shorten(("storage", 4)) == "('storage', 4)"


def test_names_of_the_same_numbers_are_counted_each_time(monkeypatch):
    """Whoever checks all tensors for NaN would walk over the same numbers as often as they are named."""
    monkeypatch.setattr(torch_zip, "MAX_BYTES", 100)
    names = b"".join(b"X\x01\x00\x00\x00" + bytes([97 + i]) + b"h\x01" for i in range(7))
    pickled = b"\x80\x02" + TENSOR + b"q\x010}(" + names + b"u."
    assert "opcode POP" in check_bounded(with_pickle(pickled))
    first = b"X\x01\x00\x00\x00z" + TENSOR + b"q\x01"
    data = with_pickle(b"\x80\x02}(" + first + names[: 8 * 5] + b"u.")
    assert len(check_bounded(data)) == 6
    data = with_pickle(b"\x80\x02}(" + first + names + b"u.")
    assert check_bounded(data) == "the tensors must have at most 100 bytes in total"


def test_a_storage_is_read_once_however_many_tensors_refer_to_it(monkeypatch):
    reads = []
    read = torch_zip.read_member
    monkeypatch.setattr(torch_zip, "read_member", lambda *given: reads.append(given[1]) or read(*given))
    items = b"".join(b"X\x02\x00\x00\x00" + f"{i:02}".encode() + TENSOR for i in range(50))
    assert len(check_bounded(with_pickle(b"\x80\x02}(" + items + b"u."))) == 50
    assert reads.count("a/data/0") == 1


def test_many_or_long_names_of_tensors_are_refused():
    def named(names):
        items = b"".join(b"X" + struct.pack("<I", len(name)) + name + b"h\x01" for name in names)
        return with_pickle(b"\x80\x02}(X\x01\x00\x00\x00z" + TENSOR + b"q\x01" + items + b"u.")

    assert len(check_bounded(named([b"%d" % i for i in range(MAX_MEMBERS - 1)]))) == MAX_MEMBERS
    assert "at most 1000 tensors" in check_bounded(named([b"%d" % i for i in range(MAX_MEMBERS)]))
    assert "names of at most 256 characters" in check_bounded(named([b"x" * (MAX_NAME + 1)]))
    long = b"\x80\x02c" + b"m" * 10**5 + b"\nf\n."
    assert len(check_bounded(with_pickle(long))) < 400


# --- The zip around them ----------------------------------------------------------------------------------


def find_records(data):
    """Offsets of the records of the members in the directory at the end of a zip."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        count, at = len(archive.infolist()), archive.start_dir
    offsets = []
    for _ in range(count):
        offsets.append(at)
        at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
    return offsets


def patched(data, offset, format_, value):
    changed = bytearray(data)
    struct.pack_into(format_, changed, offset, value)
    return bytes(changed)


GOOD = with_pickle(b"\x80\x02}X\x01\x00\x00\x00a" + TENSOR + b"s.")


def test_the_good_file_is_read():
    np.testing.assert_array_equal(check_bounded(GOOD)["a"], np.zeros(4))


def test_members_that_share_bytes_are_refused():
    first, second = find_records(GOOD)
    overlapping = patched(GOOD, second + 42, "<I", 10)
    assert "must lie one behind the other, some overlap" in check_bounded(overlapping)
    long = struct.unpack_from("<I", GOOD, first + 24)[0] + 40
    for field in (20, 24):
        overlapping = patched(GOOD if field == 20 else overlapping, first + field, "<I", long)
    assert "some overlap" in check_bounded(overlapping)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_the_same_name_are_refused():
    twice = write_members([("a/data.pkl", b"\x80\x02}."), ("a/data.pkl", b"\x80\x02}.")])
    assert "must have different names" in check_bounded(twice)


def test_many_members_and_long_names_are_refused():
    many = write_members([(f"{i}", b"") for i in range(MAX_MEMBERS + 1)])
    with pytest.raises(ValueError, match="at most 1000 members, it has 1001"), open_archive(io.BytesIO(many)):
        pass
    assert "at most 256 characters" in check_bounded(write_members([("x" * 257, b"")]))


def test_a_size_that_only_the_directory_claims_is_refused():
    for record in find_records(GOOD):
        for size in (1, 10**6, 2**32 - 1):
            assert isinstance(check_bounded(patched(GOOD, record + 24, "<I", size)), str)
            assert isinstance(check_bounded(patched(GOOD, record + 20, "<I", size)), str)


@pytest.mark.parametrize("sizes", [(2**63, 2**63), (2**64 - 1, 2**64 - 1), (16, 2**40)])
def test_sizes_of_64_bits_are_refused(sizes):
    """The zip64 extra field of a member holds them, if the directory has all ones in their place."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data/0", bytes(16))
        archive.writestr("a/data.pkl", b"\x80\x02}X\x01\x00\x00\x00a" + TENSOR + b"s.")
        archive.filelist[0].file_size, archive.filelist[0].compress_size = sizes
    assert isinstance(check_bounded(stream.getvalue()), str)


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, len(GOOD)),
)
def test_a_zip_with_changed_bytes_is_read_or_refused_within_bounds(changes, length):
    damaged = bytearray(GOOD)
    for place, value in changes:
        damaged[place] = value
    check_bounded(bytes(damaged))
    check_bounded(bytes(damaged[:length]))


FIELDS = [
    (8, "<H"),
    (10, "<H"),
    (16, "<I"),
    (20, "<I"),
    (24, "<I"),
    (28, "<H"),
    (30, "<H"),
    (32, "<H"),
    (42, "<I"),
]


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(FIELDS), st.integers(0, 2**32 - 1)), max_size=4))
def test_a_directory_with_other_entries_is_read_or_refused_within_bounds(changes):
    data, records = GOOD, find_records(GOOD)
    for member, (offset, format_), value in changes:
        data = patched(data, records[member] + offset, format_, value % 2 ** (8 * struct.calcsize(format_)))
    check_bounded(data)


NAMES = st.sampled_from(["a/data.pkl", "a/data/0", "a/byteorder", "b/data.pkl", "a/data/1", "/data.pkl", "x"])


@pytest.mark.filterwarnings("ignore:Duplicate name")
@given(st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=6), st.sampled_from([0, 8]))
def test_any_members_are_read_or_refused_within_bounds(members, compression):
    check_bounded(write_members(members, compression))


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused_within_bounds(data):
    check_bounded(data)
    check_bounded(with_pickle(data))


PIECES = st.sampled_from([
    b"(", b"t", b"\x85", b"\x86", b"\x87", b")", b"}", b"s", b"u", b"R", b"Q", b"b", b"K\x00", b"K\x04",
    b"J\xff\xff\xff\x7f", b"q\x00", b"h\x00", b"q\x01", b"h\x01", b"r\xff\xff\xff\xff", b"j\xff\xff\xff\xff",
    b"\x88", b"\x89", b"X\x01\x00\x00\x00a", STORAGE, TENSOR, ORDERED_DICT, REBUILD,
    b"ctorch\nFloatStorage\n", b"0", b"I1\n", b"L" + b"9" * 5_000 + b"L\n",
    b"(I1\nl", b"N", b"]", b"\x94", b"\x8c\x01a", b"\x93",
])  # fmt: skip


@given(st.lists(PIECES, max_size=60), st.integers(0, 60))
def test_any_sequence_of_opcodes_is_read_or_refused_within_bounds(pieces, levels):
    pickled = b"\x80\x02" + b"".join(pieces)
    check_bounded(with_pickle(pickled + b"."))
    check_bounded(with_pickle(b"\x80\x02" + doubling(levels) + b"".join(pieces) + b"."))


@given(
    st.recursive(st.none() | st.integers(0, 5) | st.text(max_size=3), lambda inner: st.tuples(inner, inner))
)
def test_structures_that_pickle_itself_writes_are_refused_within_bounds(structure):
    assert isinstance(check_bounded(with_pickle(pickle.dumps(structure, protocol=2))), str)


# --- The JSON of Stable-Baselines3 ------------------------------------------------------------------------

CARTPOLE = (DATA / "ppo_cartpole.zip").read_bytes()
with zipfile.ZipFile(io.BytesIO(CARTPOLE)) as _archive:
    MEMBERS = {_name: _archive.read(_name) for _name in ("data", "policy.pth")}
SETTINGS = json.loads(MEMBERS["data"])


def load_settings(text, folder):
    """Load a policy with these settings, and the time of a bounded number of calls."""
    from deep.stable_baselines import load_zip

    path = folder / "it.zip"
    path.write_bytes(write_members([("data", text), ("policy.pth", MEMBERS["policy.pth"])]))
    found, _ = count_steps(load_zip, path, limit=30_000 + 40 * len(text))
    if isinstance(found, ValueError):
        assert str(found).startswith(f"cannot load {path} as a policy of Stable-Baselines3: ")
        assert len(str(found)) < 1_000 + len(str(path))
    return found


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" * 10**5, "must be nested at most 100 deep"),
        (b'{"a":' * 10**5, "must be nested at most 100 deep"),
        (b"[" * 101 + b"]" * 101, "must be nested at most 100 deep"),
        (b'{"a": "' + b"[" * 10**5, "Unterminated string"),
        (b'"' + b'\\"' * 10**5, "Unterminated string"),
        (b"9" * 10**5, "integer string conversion"),
        (b" " * (2**24 + 1), "data must have at most 16777216 bytes"),
        ("[]".encode("utf-16"), "can't decode"),
        (b"null", "only policy classes of Stable-Baselines3"),
        (b"[]", "only policy classes of Stable-Baselines3"),
    ],
)
def test_settings_that_are_deep_or_long_are_refused(folder, text, message):
    assert message in str(load_settings(text, folder))


def test_brackets_in_strings_are_not_depth(folder):
    settings = {**SETTINGS, "note": "[" * 1_000 + '\\"' + "{" * 1_000}
    assert not isinstance(load_settings(json.dumps(settings).encode(), folder), ValueError)


SIZES = st.sampled_from([0, -1, 1, 2**31, 10**4_000, 1e308, True, None, "4", [], [[]], {"n": 1}])


@given(
    st.sampled_from(
        ["observation_space", "action_space", "policy_kwargs", "policy_class", "use_sde", "ent_coef"]
    ),
    st.sampled_from(
        ["_shape", "n", "start", "dtype", ":type:", "low", "activation_fn", "__module__", "clip_mean"]
    ),
    SIZES | st.lists(SIZES, max_size=300) | st.recursive(SIZES, st.lists, max_leaves=50),
    st.booleans(),
)
def test_any_value_in_the_settings_is_read_or_refused_within_bounds(folder, part, key, value, whole):
    inner = SETTINGS.get(part)
    changed = value if whole or not isinstance(inner, dict) else {**inner, key: value}
    load_settings(json.dumps({**SETTINGS, part: changed}).encode(), folder)


@given(st.integers(0, 30), st.binary(min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_a_file_with_changed_settings_bytes_is_read_or_refused_within_bounds(folder, cut, extra, place):
    text = MEMBERS["data"]
    at = place % len(text)
    load_settings(text[:at] + extra + text[at + cut :], folder)
