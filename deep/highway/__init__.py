"""Highway driving: highway-env 1.12.1 compiled for many roads at once, and highway-env itself beside it."""

from deep.highway.envs import HighwayEnv, HighwayVectorEnv
from deep.highway.reference import ReferenceEnv
from deep.highway.roads import RoadConfig, RoadState

__all__ = ["HighwayEnv", "HighwayVectorEnv", "ReferenceEnv", "RoadConfig", "RoadState"]
