"""Logs as Minari datasets: one folder, whose `data` holds observations, actions and infos by episode.

In the datasets written here the infos hold the columns that Minari does not know (is_intervention,
policy_action, features, policy_version, seed, and the number of the episode), for each observation those of
the step that led to it. Rewards are 0, since runs do not record them. In datasets of others, infos with the
names in `columns` are understood.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import gymnasium
import msgspec
import numpy as np

from mereq_min.lab.datasets.columns import LogError, check_size, find_columns, need
from mereq_min.lab.runs.files import LARGEST_ARRAYS, Arrays, make_folder, read_file
from mereq_min.steps import Steps

LARGEST_METADATA = 2**24
"""Size of the largest metadata.json that is read [bytes]."""
LARGEST_MEMBER = 2**20
"""Numbers in a member of the largest space that is read."""
MOST_CHUNKS = 2**16
"""Pieces in which an array of HDF5 may lie; each of them is looked up, whether it is there or not."""
DEEPEST_GROUP = 4
"""Groups of HDF5 inside each other that are read."""
FORMATS = {"hdf5": "h5py", "arrow": "pyarrow", "parquet": "pyarrow"}
"""The formats of Minari's data, and the packages that read them."""

INFOS = ("is_intervention", "policy_action", "features", "policy_version", "episode", "seed")
"""The columns that Minari does not know."""


def write_minari(folder: Path, steps: Steps, env: gymnasium.Env[Any, Any], *, name: str) -> None:
    """Write steps as a Minari dataset, in HDF5.

    Args:
        folder: the dataset's folder, which is made.
        steps: whole episodes, with next states.
        env: gives the spaces.
        name: of the dataset; Minari finds it if its folder has that name.
    """
    minari, storage_module = need("minari"), need("minari.dataset.minari_storage")
    need("h5py")
    make_folder(folder / "data")
    storage = storage_module.MinariStorage.new(
        (folder / "data").resolve(),  # Minari gets lost in relative paths
        observation_space=env.observation_space,
        action_space=env.action_space,
        data_format="hdf5",
        jpeg_encoding=False,
    )
    storage.update_metadata(
        {
            "dataset_id": dataset_id(name),
            "minari_version": minari.__version__,
            "description": "Interventions recorded by mereq-min; the rewards were not recorded and are 0.",
        }
    )
    storage.update_episodes([_buffer(minari, part) for part in split_episodes(steps)])


def dataset_id(name: str) -> str:
    """A name that Minari accepts for a dataset."""
    plain = re.sub(r"[^-\w]+", "-", name)
    return plain if re.search(r"-v\d+$", plain) else f"{plain}-v0"


def split_episodes(steps: Steps) -> list[Steps]:
    """The episodes of steps, each from its beginning.

    Raises:
        LogError: if next states are missing, or an episode is not whole.
    """
    if steps.next_state is None:
        raise LogError(
            "these steps have no next_state, which this format needs (old runs did not keep it); export to "
            "csv or parquet"
        )
    cuts = np.flatnonzero(steps.episode[1:] != steps.episode[:-1]) + 1
    parts = [
        steps.select(np.isin(np.arange(len(steps)), rows)) for rows in np.split(np.arange(len(steps)), cuts)
    ]
    for part in parts:
        assert part.next_state is not None
        if not np.array_equal(part.t, np.arange(len(part))) or not np.array_equal(
            part.state[1:], part.next_state[:-1]
        ):
            raise LogError(f"episode {part.episode[0]} is not whole; export it as csv or parquet")
    return parts


def _buffer(minari: Any, steps: Steps) -> Any:
    columns, n = steps.columns(), len(steps)
    last = columns["next_state"][-1:]
    return minari.data_collector.EpisodeBuffer(
        observations=np.concatenate([steps.state, last]),
        actions=steps.action,
        rewards=np.zeros(n),
        terminations=steps.terminated,
        truncations=steps.truncated,
        infos={
            name: np.concatenate([np.zeros_like(columns[name][:1]), columns[name]])
            for name in INFOS
            if name in columns
        },
    )


def read_minari(folder: Path) -> Arrays:
    """The columns of a Minari dataset: of its folder, or of the folder `data` in it.

    Nothing that the dataset names is opened, imported or made into an environment.

    Raises:
        OSError, ValueError, ...: if it cannot be read, see `columns.reading`.
    """
    data = (folder / "data" if (folder / "data").is_dir() else folder).resolve()  # as Minari wants it
    metadata = msgspec.json.decode(read_file(data / "metadata.json", LARGEST_METADATA), type=dict[str, Any])
    # Without spaces, Minari would make the environment that the dataset names, which runs its code.
    for name in ("observation_space", "action_space"):
        if not isinstance(metadata.get(name), str):
            raise ValueError("its metadata.json does not tell the spaces of observations and actions")
        _check_space(name, metadata[name])
    if (kind := metadata.get("data_format")) not in FORMATS:
        raise ValueError(f"its data_format must be one of {', '.join(FORMATS)}, but is {kind!r:.40}")
    need(FORMATS[kind])
    check_size(data)
    if kind == "hdf5":
        _check_hdf5(data / "main_data.hdf5")
    storage = need("minari.dataset.minari_storage").MinariStorage.read(data)
    if storage.total_episodes == 0:
        raise ValueError("it has no episodes")
    parts = [
        _columns(number, each)
        for number, each in enumerate(storage.get_episodes(range(storage.total_episodes)))
    ]
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in shared}


def _check_space(name: str, text: str) -> None:
    """Check that a space has numbers as members, and not too many in each."""
    space = msgspec.convert(json.loads(text), dict[str, Any])  # infinite bounds are no strict JSON
    if (kind := space.get("type")) not in ("Box", "Discrete") or space.get("dtype") == "uint8":
        raise ValueError(
            f"its {name} is {kind!r:.40} or holds pictures; a Box of numbers or Discrete is read"
        )
    if kind == "Box" and math.prod(msgspec.convert(space.get("shape"), list[int])) > LARGEST_MEMBER:
        raise ValueError(f"the members of its {name} have more than {LARGEST_MEMBER} numbers")


def _columns(number: int, episode: dict[str, Any]) -> Arrays:
    """The columns of an episode."""
    observations, n = episode["observations"], len(episode["rewards"])
    if not isinstance(observations, np.ndarray) or not isinstance(episode["actions"], np.ndarray):
        raise ValueError("its observations or actions are not arrays of numbers")
    if len(observations) != n + 1:
        raise ValueError(f"episode {number} has {len(observations)} observations for {n} steps")
    infos = {
        name: np.asarray(info)
        for name, info in (episode["infos"] or {}).items()
        if not isinstance(info, dict)
    }
    found = {
        column: infos[names[0]] for column, names in find_columns(list(infos), ()).items() if len(names) == 1
    }
    return {
        "episode": np.full(n, number),
        # The infos of a reset come before those of the steps, if they were recorded.
        **{column: info[-n:] if len(info) == n + 1 else info for column, info in found.items()},
        "state": observations[:-1],
        "next_state": observations[1:],
        "action": episode["actions"],
        "terminated": episode["terminations"],
        "truncated": episode["truncations"],
        "reward": episode["rewards"],
    }


def _check_hdf5(file: Path) -> None:
    """Check that an HDF5 file lies in itself alone, and does not unpack to more than is read.

    Raises:
        ValueError: otherwise.
    """
    h5py = need("h5py")
    size = 0

    def look(group: Any, depth: int) -> None:
        nonlocal size
        if depth > DEEPEST_GROUP:
            raise ValueError(f"its groups are nested more than {DEEPEST_GROUP} levels deep")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{group.name}/{name} is a link, which is not followed")
            item = group[name]
            if isinstance(item, h5py.Group):
                look(item, depth + 1)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ValueError(f"{item.name} lies in another file, which is not opened")
                if item.dtype.kind not in "biuf":
                    raise ValueError(f"{item.name} holds {item.dtype}, which are not numbers")
                if _count_chunks(item) > MOST_CHUNKS:
                    raise ValueError(f"{item.name} lies in more than {MOST_CHUNKS} pieces")
                size += item.nbytes
            else:
                raise ValueError(f"{group.name}/{name} is neither a group nor numbers")

    with h5py.File(file, "r") as opened:
        look(opened, 0)
    if size > LARGEST_ARRAYS:
        raise ValueError(f"it unpacks to {size} bytes, more than the {LARGEST_ARRAYS} that are read")


def _count_chunks(array: Any) -> int:
    chunks = array.chunks or array.shape
    return math.prod(-(-size // max(1, chunk)) for size, chunk in zip(array.shape, chunks, strict=True))
