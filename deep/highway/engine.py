"""The rules of highway-env 1.12.1, compiled with numba for many straight roads at once.

A road consists of a row of `cars` (N, V + 1), with the ego first, and an entry of `roads` (N,), which holds
its clock and its random generator. Every rule performs its floating-point operations in highway-env's order.
Cars follow each other by the IDM (Treiber et al., Phys. Rev. E 62, 2000), change lanes by MOBIL (Kesting et
al., Transp. Res. Rec. 1999, 2007) and move as kinematic bicycles (Polack et al., IV 2017); the separating
axis theorem tells which of them collide.

Only the entry points (`reset_roads`, `observe_roads` and `step_roads`) are cached; the compiled code of an
entry point includes everything it calls. numba looks up `sin`, `power`, `dot` and so on when it compiles an
entry point, so that a copy of this module can run with other mathematical functions.
"""

from __future__ import annotations

from math import asin, atan, cos, sin, sqrt, tan
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

CAR = np.dtype(
    [
        ("x", "f8"),  # along the road [m]
        ("y", "f8"),  # distance to the right of the left-most lane's centre [m]
        ("heading", "f8"),  # [rad], positive to the right
        ("speed", "f8"),  # [m/s]
        ("target_speed", "f8"),  # [m/s]
        ("exponent", "f8"),  # exponent of the IDM's velocity term; the ego does not use it
        ("timer", "f8"),  # time since the car last considered a lane change [s]; the ego does not use it
        ("impact_x", "f8"),  # displacement by a collision at the next sub-step [m]
        ("impact_y", "f8"),
        ("lane", "i8"),  # closest lane, counted from 0 for the left-most
        ("target_lane", "i8"),
        ("has_impact", "?"),
        ("crashed", "?"),
        # The following are computed from the above at every sub-step.
        ("cos", "f8"),  # cosine of the heading
        ("sin", "f8"),  # sine of the heading
        ("steering", "f8"),  # angle of the front wheel [rad]
        ("acceleration", "f8"),  # [m/s^2]
        ("rank", "i8"),  # position among the road's cars in ascending x
    ],
    align=True,
)
"""State of a car."""

ROAD = np.dtype(
    [
        ("time", "f8"),  # time since the reset [s]
        ("state_high", "u8"),  # 128 bits of state of numpy's PCG64, and 128 bits of its increment
        ("state_low", "u8"),
        ("increment_high", "u8"),
        ("increment_low", "u8"),
        ("half", "u8"),  # 32 random bits that the last bounded integer left unused
        ("has_half", "?"),
    ],
    align=True,
)
"""State of a road apart from its cars: its clock and its random generator."""


class Scene(NamedTuple):
    """Parameters of a scene, as the compiled code needs them."""

    lanes: int
    """Number of lanes."""
    sub_steps: int
    """Sub-steps in a policy step."""
    dt: float
    """Length of a sub-step [s]."""
    policy_dt: float
    """Time that a policy step adds to the clock [s]."""
    duration: float
    """Time limit of an episode [s]."""
    ego_lane: int
    """The lane in which the ego starts, or -1 to draw it."""
    ego_spacing: float
    """Distance of the ego's start from the beginning of the road, in multiples of the default gap."""
    spacing: float
    """Gaps between the other cars, in multiples of the default gap."""
    only_ego_collides: bool
    """Whether only pairs with the ego are checked for collisions."""


LEFT, RIGHT, FASTER, SLOWER = 0, 2, 3, 4
"""The ego's actions, as in `roads.ACTIONS`; action 1 changes nothing."""
OBSERVED = 5
"""Rows of an observation: the ego and the four cars that are closest to it along the road."""

LANE_WIDTH, ROAD_LENGTH = 4.0, 10_000.0
"""Width of a lane, and length of the road [m]."""
LENGTH, WIDTH = 5.0, 2.0
DIAGONAL = sqrt(LENGTH**2 + WIDTH**2)
"""Length, width and diagonal of a car [m]."""
MAX_SPEED, SPEED_LIMIT = 40.0, 30.0
"""Speed that no car exceeds, and speed limit that the IDM observes [m/s]."""
LOWEST_TARGET, TARGET_STEP, TARGETS = 20.0, 5.0, 3
"""The ego's target speeds: the lowest one, the step between them [m/s], and their number."""
PERCEPTION = 5.0 * MAX_SPEED
"""Distance up to which the ego observes other cars [m]."""

KP_A, KP_HEADING, KP_LATERAL = 1 / 0.6, 1 / 0.2, 1 / 0.6
"""Gains of the proportional controllers of speed, heading and lateral position [1/s]."""
MAX_STEERING = np.pi / 3
"""Largest angle of the front wheel [rad]."""

ACC_MAX, COMFORT_ACC, COMFORT_BRAKING = 6.0, 3.0, 5.0
"""Bound of a car's acceleration, and the IDM's comfortable acceleration and deceleration [m/s^2]."""
GAP_WANTED, TIME_WANTED = 10.0, 1.5
"""The IDM's gap at standstill [m] and its time headway [s]."""
GAP_SCALE = 2 * sqrt(COMFORT_ACC * COMFORT_BRAKING)
"""Denominator of the approach term in the IDM's desired gap [m/s^2]."""
MIN_GAIN, MAX_BRAKING_IMPOSED = 0.2, 2.0
"""MOBIL: the least gain in acceleration for which a car changes lane, and the hardest braking that it may
impose on its new follower [m/s^2]."""
CHANGE_DELAY = 1.0
"""Time between two considerations of a lane change [s]."""


inner = njit(error_model="numpy")
"""Compiles a function that other compiled functions call."""
entry_point = njit(error_model="numpy", cache=True, nogil=True)
"""Compiles a function that Python calls; it is cached on disk and runs without the interpreter lock."""


@inner
def power(base: float, exponent: float) -> float:
    """Return base**exponent."""
    return base**exponent


@inner
def dot(ax: float, ay: float, bx: float, by: float) -> float:
    """Return the scalar product of two vectors in the plane."""
    return ax * bx + ay * by


@inner
def clip(value: float, low: float, high: float) -> float:
    """Return the number in [low, high] that is closest to `value`."""
    return min(max(value, low), high)


@inner
def not_zero(value: float) -> float:
    """Return a divisor, moved to a distance of 0.01 from zero if it is closer."""
    if abs(value) > 0.01:
        return value
    return 0.01 if value >= 0 else -0.01


@inner
def wrap_angle(angle: float) -> float:
    """Return the angle in [-pi, pi) [rad]."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


@inner
def lateral(car: Any, lane: int) -> float:
    """Return the signed distance of a car from a lane's centre [m], positive to the right."""
    return car.y - LANE_WIDTH * lane


@inner
def is_on_lane(car: Any, lane: int, margin: float) -> bool:
    """Return whether a car is on a lane, if the lane is widened by `margin` on both sides [m]."""
    return abs(lateral(car, lane)) <= LANE_WIDTH / 2 + margin and -LENGTH <= car.x < ROAD_LENGTH + LENGTH


@inner
def is_reachable(car: Any, lane: int) -> bool:
    """Return whether a car is close enough to a lane to change to it."""
    return abs(lateral(car, lane)) <= 2 * LANE_WIDTH and 0 <= car.x < ROAD_LENGTH + LENGTH


@inner
def closest_lane(car: Any, lanes: int) -> int:
    """Return the lane closest to a car; of equally close ones, the left-most.

    As in highway-env, the distance includes terms that are the same for all lanes: they affect its rounding.
    """
    angle = abs(wrap_angle(car.heading)) if car.heading != 0 else 0.0
    before, after = max(0.0 - car.x, 0.0), max(car.x - ROAD_LENGTH, 0.0)
    best, least = 0, np.inf
    for lane in range(lanes):
        distance = abs(lateral(car, lane)) + after + before + angle
        if distance < least:
            best, least = lane, distance
    return best


@inner
def sort_along_road(cars: Any, order: NDArray[np.int64]) -> None:
    """Sort the indices of the cars by (x, index), and set each car's rank.

    It is an insertion sort, because the order hardly changes from one sub-step to the next.
    """
    for p in range(1, len(order)):
        i = order[p]
        x = cars[i].x
        q = p
        while q > 0 and (cars[order[q - 1]].x > x or (cars[order[q - 1]].x == x and order[q - 1] > i)):
            order[q] = order[q - 1]
            q -= 1
        order[q] = i
    for p in range(len(order)):
        cars[order[p]].rank = p


@inner
def turn(car: Any) -> None:
    """Update the cosine and sine of a car's heading."""
    if car.heading == 0:
        car.cos, car.sin = 1.0, 0.0
    else:
        car.cos, car.sin = cos(car.heading), sin(car.heading)


@inner
def find_front(cars: Any, order: NDArray[np.int64], i: int, lane: int) -> int:
    """Return the nearest car on a lane that is ahead of car i or level with it, or -1 if there is none.

    Of several at the same x, it is the last in the list.
    """
    x = cars[i].x
    p = cars[i].rank
    while p > 0 and cars[order[p - 1]].x == x:
        p -= 1
    found = -1
    for q in range(p, len(order)):
        j = order[q]
        if found >= 0 and cars[j].x > cars[found].x:
            break
        if j != i and is_on_lane(cars[j], lane, 1.0):
            found = j
    return found


@inner
def find_rear(cars: Any, order: NDArray[np.int64], i: int, lane: int) -> int:
    """Return the nearest car on a lane behind car i, or -1 if there is none.

    Of several at the same x, it is the first in the list.
    """
    x = cars[i].x
    found = -1
    for q in range(cars[i].rank - 1, -1, -1):
        j = order[q]
        if found >= 0 and cars[j].x < cars[found].x:
            break
        if cars[j].x < x and is_on_lane(cars[j], lane, 1.0):
            found = j
    return found


@inner
def free_acceleration(car: Any, exponent: float) -> float:
    """Return the IDM's acceleration on an empty road [m/s^2]."""
    target = clip(car.target_speed, 0.0, SPEED_LIMIT)
    return COMFORT_ACC * (1.0 - power(max(car.speed, 0.0) / abs(not_zero(target)), exponent))


@inner
def desired_gap(car: Any, front: Any) -> float:
    """Return the gap to the car in front that the IDM aims for [m]."""
    closing = dot(
        car.speed * car.cos - front.speed * front.cos,
        car.speed * car.sin - front.speed * front.sin,
        car.cos,
        car.sin,
    )
    return GAP_WANTED + car.speed * TIME_WANTED + car.speed * closing / GAP_SCALE


@inner
def follow(free: float, cars: Any, i: int, front: int) -> float:
    """Return the IDM's acceleration of car i behind the car `front` [m/s^2].

    Args:
        free: acceleration of car i on an empty road [m/s^2].
        cars: (V + 1,) the cars of the road.
        i: index of the following car.
        front: index of the leading car, -1 for none.
    """
    if front < 0:
        return free
    ratio = desired_gap(cars[i], cars[front]) / not_zero(cars[front].x - cars[i].x)
    return free - COMFORT_ACC * (ratio * ratio)


@inner
def steer(car: Any) -> float:
    """Return the steering angle [rad] towards the target lane.

    A proportional controller of the lateral position sets the heading that one of the heading follows.
    """
    offset = lateral(car, car.target_lane)
    if offset == 0 and car.heading == 0:
        return 0.0
    speed = not_zero(car.speed)
    heading = clip(asin(clip(-KP_LATERAL * offset / speed, -1.0, 1.0)), -np.pi / 4, np.pi / 4)
    rate = KP_HEADING * wrap_angle(heading - car.heading)
    slip = asin(clip(LENGTH / 2 / speed * rate, -1.0, 1.0))
    return clip(atan(2 * tan(slip)), -MAX_STEERING, MAX_STEERING)


@inner
def command_ego(ego: Any, lanes: int, action: int) -> None:
    """Set the ego's target lane or target speed.

    A lane change starts from the current target lane, but a change of speed from the actual speed.
    """
    if action in (LEFT, RIGHT):
        lane = min(max(ego.target_lane + action - 1, 0), lanes - 1)
        if is_reachable(ego, lane):
            ego.target_lane = lane
    elif action in (FASTER, SLOWER):
        index = nearest_target(ego.speed) + (1 if action == FASTER else -1)
        index = min(max(index, 0), TARGETS - 1)
        ego.target_speed = LOWEST_TARGET + TARGET_STEP * index


@inner
def nearest_target(speed: float) -> int:
    """Return the index of the target speed closest to a speed; ties go to the even index."""
    scaled = (speed - LOWEST_TARGET) / (TARGET_STEP * (TARGETS - 1))
    return min(max(round(scaled * (TARGETS - 1)), 0), TARGETS - 1)


@inner
def drive_ego(ego: Any) -> None:
    """Set the ego's steering and acceleration by proportional controllers."""
    ego.steering = steer(ego)
    ego.acceleration = KP_A * (ego.target_speed - ego.speed)


@inner
def drive_other(cars: Any, order: NDArray[np.int64], i: int, lanes: int) -> None:
    """Set target lane, steering and acceleration of a car that drives by the IDM and MOBIL."""
    car = cars[i]
    free = free_acceleration(car, car.exponent)
    acceleration = follow(free, cars, i, find_front(cars, order, i, car.lane))
    if car.lane != car.target_lane:
        if is_contested(cars, i):
            car.target_lane = car.lane
    elif car.timer > CHANGE_DELAY:
        car.timer = 0.0
        # If a change to either side is worth it, the right one wins, because it is considered last.
        for lane in (car.lane - 1, car.lane + 1):
            if 0 <= lane < lanes and is_worth_changing(cars, order, i, lane, free, acceleration):
                car.target_lane = lane
    car.steering = steer(car)
    if car.lane != car.target_lane:
        front = find_front(cars, order, i, car.target_lane)
        acceleration = min(acceleration, follow(free, cars, i, front))
    car.acceleration = clip(acceleration, -ACC_MAX, ACC_MAX)


@inner
def is_contested(cars: Any, i: int) -> bool:
    """Return whether another car, closer ahead than the desired gap, is changing to car i's target lane.

    That car may have decided so earlier in the same sub-step.
    """
    car = cars[i]
    for j in range(len(cars)):
        other = cars[j]
        changes = other.lane != car.target_lane and other.target_lane == car.target_lane
        if j != i and changes and 0 < other.x - car.x < desired_gap(car, other):
            return True
    return False


@inner
def is_worth_changing(
    cars: Any, order: NDArray[np.int64], i: int, lane: int, free: float, acceleration: float
) -> bool:
    """Return whether car i should change to a lane, by MOBIL with a politeness of 0.

    It should if it gains acceleration, and if its follower on the new lane need not brake hard.
    """
    car = cars[i]
    if abs(car.speed) < 1 or not is_reachable(car, lane):
        return False
    if follow(free, cars, i, find_front(cars, order, i, lane)) - acceleration < MIN_GAIN:
        return False
    rear = find_rear(cars, order, i, lane)
    if rear < 0:
        return True
    # As in highway-env, the exponent is that of the deciding car, not of the one that would have to brake.
    return follow(free_acceleration(cars[rear], car.exponent), cars, rear, i) >= -MAX_BRAKING_IMPOSED


@inner
def move(car: Any, lanes: int, dt: float) -> None:
    """Move a car by the kinematic bicycle model.

    An impact noted in the previous sub-step displaces the car, which then counts as crashed.
    """
    if car.crashed:
        car.steering, car.acceleration = 0.0, -car.speed
    if car.speed > MAX_SPEED:
        car.acceleration = min(car.acceleration, MAX_SPEED - car.speed)
    elif car.speed < -MAX_SPEED:
        car.acceleration = max(car.acceleration, -MAX_SPEED - car.speed)
    if car.steering == 0 and car.heading == 0:
        car.x += car.speed * dt
    else:
        slip = atan(0.5 * tan(car.steering))
        car.x += car.speed * cos(car.heading + slip) * dt
        car.y += car.speed * sin(car.heading + slip) * dt
        car.heading += car.speed * sin(slip) / (LENGTH / 2) * dt
    if car.has_impact:
        car.x += car.impact_x
        car.y += car.impact_y
        car.crashed = True
        car.has_impact = False
    car.speed += car.acceleration * dt
    car.lane = closest_lane(car, lanes)
    turn(car)


@inner
def collide_all(
    cars: Any, order: NDArray[np.int64], close: NDArray[np.int64], dt: float, only_ego: bool
) -> None:
    """Detect collisions of all pairs of cars, in the order of the list.

    The order matters: the impact of a later pair overwrites that of an earlier one.
    """
    for i in range(1 if only_ego else len(cars)):
        reach = DIAGONAL + cars[i].speed * dt
        for k in range(find_close(cars, order, i, reach, close)):
            j = close[k]
            dx, dy = cars[j].x - cars[i].x, cars[j].y - cars[i].y
            if sqrt(dot(dx, dy, dx, dy)) <= reach:
                collide(cars[i], cars[j], dt)


@inner
def find_close(cars: Any, order: NDArray[np.int64], i: int, reach: float, close: NDArray[np.int64]) -> int:
    """Write the cars j > i within `reach` of car i along the road into `close`; return their number.

    They are in ascending order.
    """
    count = 0
    for direction in (-1, 1):
        p = cars[i].rank + direction
        while 0 <= p < len(order) and abs(cars[order[p]].x - cars[i].x) <= reach:
            if order[p] > i:
                k = count
                while k > 0 and close[k - 1] > order[p]:
                    close[k] = close[k - 1]
                    k -= 1
                close[k] = order[p]
                count += 1
            p += direction
    return count


@inner
def corners(car: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return x and y of a car's corners: rear left, rear right, front right, front left."""
    c, s, length, width = car.cos, car.sin, LENGTH / 2, WIDTH / 2
    return (
        (
            dot(c, -s, -length, -width) + car.x,
            dot(c, -s, -length, width) + car.x,
            dot(c, -s, length, width) + car.x,
            dot(c, -s, length, -width) + car.x,
        ),
        (
            dot(s, c, -length, -width) + car.y,
            dot(s, c, -length, width) + car.y,
            dot(s, c, length, width) + car.y,
            dot(s, c, length, -width) + car.y,
        ),
    )


@inner
def project(xs: tuple[float, ...], ys: tuple[float, ...], nx: float, ny: float) -> tuple[float, float]:
    """Return the interval that a car's outline covers along an axis, given x and y of its corners."""
    low = high = dot(xs[0], ys[0], nx, ny)
    for k in range(1, 4):
        projected = dot(xs[k], ys[k], nx, ny)
        low, high = min(low, projected), max(high, projected)
    return low, high


@inner
def interval_distance(low_a: float, high_a: float, low_b: float, high_b: float) -> float:
    """Return the distance between two intervals; it is negative if they overlap."""
    return low_b - high_a if low_a < low_b else low_a - high_b


@inner
def collide(a: Any, b: Any, dt: float) -> None:
    """Detect a collision of two cars by the separating axis theorem.

    Cars that touch count as crashed. For cars that will touch within dt [s], the impact is noted.
    """
    a_x, a_y = corners(a)
    b_x, b_y = corners(b)
    shift_x = a.speed * a.cos * dt - b.speed * b.cos * dt
    shift_y = a.speed * a.sin * dt - b.speed * b.sin * dt
    center_x = (a_x[0] + a_x[1] + a_x[2] + a_x[3]) / 4 - (b_x[0] + b_x[1] + b_x[2] + b_x[3]) / 4
    center_y = (a_y[0] + a_y[1] + a_y[2] + a_y[3]) / 4 - (b_y[0] + b_y[1] + b_y[2] + b_y[3]) / 4
    touch = will_touch = True
    least, least_x, least_y = np.inf, 0.0, 0.0
    for k in range(8):
        xs, ys = (a_x, a_y) if k < 4 else (b_x, b_y)
        nx, ny = ys[k % 4] - ys[(k + 1) % 4], xs[(k + 1) % 4] - xs[k % 4]
        norm = sqrt(dot(nx, ny, nx, ny))
        nx, ny = nx / norm, ny / norm
        low_a, high_a = project(a_x, a_y, nx, ny)
        low_b, high_b = project(b_x, b_y, nx, ny)
        if interval_distance(low_a, high_a, low_b, high_b) > 0:
            touch = False
        shift = dot(nx, ny, shift_x, shift_y)
        if shift < 0:
            low_a += shift
        else:
            high_a += shift
        distance = interval_distance(low_a, high_a, low_b, high_b)
        if distance > 0:
            will_touch = False
        if not touch and not will_touch:
            return
        if abs(distance) < least:
            least = abs(distance)
            sign = 1.0 if dot(center_x, center_y, nx, ny) > 0 else -1.0
            least_x, least_y = sign * nx, sign * ny
    if will_touch:
        a.impact_x, a.impact_y = least * least_x / 2, least * least_y / 2
        b.impact_x, b.impact_y = -a.impact_x, -a.impact_y
        a.has_impact = b.has_impact = True
    if touch:
        a.crashed = b.crashed = True


@inner
def drive(cars: Any, scene: Scene, action: int) -> None:
    """Take one policy step on a road.

    In each sub-step all cars choose their controls, in the order of the list; then all move; then collisions
    are detected.
    """
    order = np.arange(len(cars))
    close = np.empty(len(cars), np.int64)
    for i in range(len(cars)):
        turn(cars[i])
    sort_along_road(cars, order)
    command_ego(cars[0], scene.lanes, action)
    for _ in range(scene.sub_steps):
        drive_ego(cars[0])
        for i in range(1, len(cars)):
            if not cars[i].crashed:
                drive_other(cars, order, i, scene.lanes)
        move(cars[0], scene.lanes, scene.dt)
        for i in range(1, len(cars)):
            cars[i].timer += scene.dt
            move(cars[i], scene.lanes, scene.dt)
        sort_along_road(cars, order)
        collide_all(cars, order, close, scene.dt, scene.only_ego_collides)


@inner
def measure(ego: Any, lanes: int, features: NDArray[np.float64]) -> None:
    """Write the ego's features collision, right_lane and high_speed into `features` (3,)."""
    features[0] = 1.0 if ego.crashed else 0.0
    features[1] = ego.target_lane / max(lanes - 1, 1)
    features[2] = clip((ego.speed * cos(ego.heading) - 20.0) / 10.0, 0.0, 1.0)


@inner
def scale(value: float, extent: float) -> float:
    """Map a value from [-extent, extent] to [-1, 1], and clip it."""
    return clip(-1 + (value + extent) * 2 / (2 * extent), -1.0, 1.0)


@inner
def write_row(row: NDArray[np.float32], x: float, y: float, vx: float, vy: float, lanes: int) -> None:
    """Write a car into its row (5,) of an observation."""
    row[0] = 1.0
    row[1] = scale(x, PERCEPTION)
    row[2] = scale(y, LANE_WIDTH * lanes)
    row[3] = scale(vx, 2 * MAX_SPEED)
    row[4] = scale(vy, 2 * MAX_SPEED)


@inner
def observe(cars: Any, lanes: int, observation: NDArray[np.float32]) -> None:
    """Write an observation (5, 5): presence, x, y, vx and vy of the ego and of the closest cars.

    Those of the other cars are relative to the ego.
    """
    ego = cars[0]
    ego_vx, ego_vy = ego.speed * cos(ego.heading), ego.speed * sin(ego.heading)
    write_row(observation[0], ego.x, ego.y, ego_vx, ego_vy, lanes)
    seen = np.empty(OBSERVED, np.int64)
    count = 0
    for i in range(1, len(cars)):
        dx, dy = cars[i].x - ego.x, cars[i].y - ego.y
        if dx > -2 * LENGTH and sqrt(dot(dx, dy, dx, dy)) < PERCEPTION:
            # The comparison is strict: of two cars at the same distance, the first in the list stays first.
            k = count
            while k > 0 and abs(dx) < abs(cars[seen[k - 1]].x - ego.x):
                seen[k] = seen[k - 1]
                k -= 1
            seen[k] = i
            count = min(count + 1, OBSERVED - 1)
    for k in range(count):
        car = cars[seen[k]]
        vx, vy = car.speed * cos(car.heading), car.speed * sin(car.heading)
        write_row(observation[k + 1], car.x - ego.x, car.y - ego.y, vx - ego_vx, vy - ego_vy, lanes)
    for k in range(count + 1, OBSERVED):
        for column in range(observation.shape[1]):
            observation[k, column] = 0.0


LOW_HALF, HALF_BITS = np.uint64(0xFFFFFFFF), np.uint64(32)
"""Mask of the lower half of 64 bits, and the number of bits in a half."""
ONE_BIT, FRACTION_SHIFT, ROTATION_SHIFT, ALL_BITS = np.uint64(1), np.uint64(11), np.uint64(58), np.uint64(63)
"""The number 1, the shifts that leave the 53 bits of a uniform draw and the 6 bits of PCG64's rotation, and
the mask of a rotation."""
MULTIPLIER_HIGH, MULTIPLIER_LOW = np.uint64(2549297995355413924), np.uint64(4865540595714422341)
"""The halves of PCG64's 128-bit multiplier."""


@inner
def multiply_high(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return the upper 64 bits of the product of two 64-bit numbers."""
    a_low, a_high = a & LOW_HALF, a >> HALF_BITS
    b_low, b_high = b & LOW_HALF, b >> HALF_BITS
    middle = a_high * b_low + ((a_low * b_low) >> HALF_BITS)
    carry = (a_low * b_high + (middle & LOW_HALF)) >> HALF_BITS
    return a_high * b_high + (middle >> HALF_BITS) + carry


@inner
def draw_bits(road: Any) -> np.uint64:
    """Advance PCG64 (O'Neill, HMC-CS-2014-0905) and return 64 bits."""
    high, low = road.state_high, road.state_low
    road.state_low = low * MULTIPLIER_LOW + road.increment_low
    carry = ONE_BIT if road.state_low < road.increment_low else ONE_BIT - ONE_BIT
    road.state_high = (
        high * MULTIPLIER_LOW
        + low * MULTIPLIER_HIGH
        + multiply_high(low, MULTIPLIER_LOW)
        + road.increment_high
        + carry
    )
    mixed = road.state_high ^ road.state_low
    rotation = road.state_high >> ROTATION_SHIFT
    return (mixed >> rotation) | (mixed << ((ALL_BITS - rotation + ONE_BIT) & ALL_BITS))


@inner
def draw_uniform(road: Any, low: float, high: float) -> float:
    """Draw from [low, high) as `Generator.uniform` does."""
    return low + (high - low) * ((draw_bits(road) >> FRACTION_SHIFT) * (1.0 / 9007199254740992.0))


@inner
def draw_half(road: Any) -> np.uint64:
    """Draw 32 bits: the unused half of an earlier draw, if there is one."""
    if road.has_half:
        road.has_half = False
        return road.half
    bits = draw_bits(road)
    road.has_half, road.half = True, bits >> HALF_BITS
    return bits & LOW_HALF


@inner
def draw_integer(road: Any, n: int) -> np.int64:
    """Draw from 0..n - 1 as `Generator.integers` does, by Lemire's multiplication method (TOMACS 2019)."""
    if n == 1:
        return np.int64(0)
    count = np.uint64(n)
    product = draw_half(road) * count
    if product & LOW_HALF < count:
        threshold = (LOW_HALF - count + ONE_BIT) % count
        while product & LOW_HALF < threshold:
            product = draw_half(road) * count
    return np.int64(product >> HALF_BITS)


@inner
def place_cars(cars: Any, road: Any, scene: Scene) -> None:
    """Draw the initial state of a road, with the same random draws in the same order as highway-env."""
    crowding = np.exp(-5 / 40 * scene.lanes)
    x = 0.0
    for i in range(len(cars)):
        car = cars[i]
        if i == 0 and scene.ego_lane >= 0:
            car.lane = scene.ego_lane
        else:
            car.lane = draw_integer(road, scene.lanes)
        car.speed = 25.0 if i == 0 else draw_uniform(road, 0.7 * SPEED_LIMIT, 0.8 * SPEED_LIMIT)
        offset = (scene.ego_spacing if i == 0 else scene.spacing) * (12 + car.speed) * crowding
        if i == 0:
            x = 3 * offset
        x += offset * draw_uniform(road, 0.9, 1.1)
        car.exponent = 0.0 if i == 0 else draw_uniform(road, 3.5, 4.5)
        car.x, car.y, car.heading = x, LANE_WIDTH * car.lane, 0.0
        car.target_lane, car.target_speed = car.lane, car.speed
        car.timer = 0.0 if i == 0 else (car.x + car.y) * np.pi % CHANGE_DELAY
        car.impact_x = car.impact_y = 0.0
        car.has_impact = car.crashed = False
        car.steering = car.acceleration = 0.0
        car.rank = i
        turn(car)
    road.time = 0.0


@entry_point
def reset_roads(
    cars: Any, roads: Any, scene: Scene, chosen: NDArray[np.bool_], observations: NDArray[np.float32]
) -> None:
    """Draw initial states for the chosen roads, each from its own generator.

    Args:
        cars: (N, V + 1) of `CAR`.
        roads: (N,) of `ROAD`.
        scene: parameters of all roads.
        chosen: (N,) which roads are reset.
        observations: (N, 5, 5), written for these roads.
    """
    for n in range(len(roads)):
        if chosen[n]:
            place_cars(cars[n], roads[n], scene)
            observe(cars[n], scene.lanes, observations[n])


@entry_point
def observe_roads(cars: Any, scene: Scene, observations: NDArray[np.float32]) -> None:
    """Write the observations (N, 5, 5) of N roads."""
    for n in range(len(cars)):
        observe(cars[n], scene.lanes, observations[n])


@entry_point
def step_roads(
    start: int,
    stop: int,
    cars: Any,
    roads: Any,
    scene: Scene,
    weights: NDArray[np.float64],
    actions: NDArray[np.int64],
    observations: NDArray[np.float32],
    features: NDArray[np.float64],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
) -> None:
    """Take one policy step on the roads start..stop - 1, and write its results.

    Args:
        start: index of the first road.
        stop: index after the last road.
        cars: (N, V + 1) of `CAR`.
        roads: (N,) of `ROAD`.
        scene: parameters of all roads.
        weights: (3,) weights of the reward.
        actions: (N,) actions in 0..4.
        observations: (N, 5, 5), written.
        features: (N, 3), written: collision, right_lane, high_speed.
        rewards: (N,), written: weights . features + 1 on the road, 0 off it.
        terminated: (N,), written: whether the ego has crashed.
        truncated: (N,), written: whether the time limit is reached.
    """
    for n in range(start, stop):
        ego = cars[n, 0]
        drive(cars[n], scene, actions[n])
        roads[n].time += scene.policy_dt
        f = features[n]
        measure(ego, scene.lanes, f)
        terminated[n], truncated[n] = ego.crashed, roads[n].time >= scene.duration
        reward = weights[0] * f[0] + weights[1] * f[1] + weights[2] * f[2] + 1
        rewards[n] = reward if is_on_lane(ego, ego.lane, 0.0) else 0.0
        observe(cars[n], scene.lanes, observations[n])
