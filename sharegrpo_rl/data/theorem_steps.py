"""What a solution in words says where a theorem is used, by the beginning of the theorem's name.

Phrases are separated by semicolons. The first is a sentence; {0}, {1} are the call's points.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

_TABLE = """
# lines and angles
line_addition: {0} and {1} make up one line; sum of the segments
midpoint_of_line: {0} is the midpoint of {1}; midpoint
angle_addition: angles {0} and {1} make up one angle; sum of the angles
adjacent_complementary_angle: angles {0} and {1} add up to 180 degrees; supplementary; linear pair; straight line;
    straight angle; 180 -; = 180
vertical_angle: {0} and {1} are vertical angles; vertical angles; vertically opposite; opposite angles
flat_angle: angle {0} is a straight angle of 180 degrees; straight angle; straight line; = 180
round_angle: angles {0} and {1} add up to 360 degrees; around a point; full turn; 360 -; = 360
perpendicular_judgment: {0} is perpendicular to {1}; perpendicular; right angle
parallel_judgment: {0} is parallel to {1}; parallel
parallel_property_collinear_extend: {0} extended is parallel to {1}; parallel
parallel_property_corresponding: corresponding angles of the parallel lines {0} and {1} are equal; corresponding
    angles
parallel_property_alternate: alternate interior angles of the parallel lines {0} and {1} are equal; alternate interior
    angles; alternate angles
parallel_property_ipsilateral: interior angles between the parallel lines {0} and {1} add up to 180 degrees;
    co-interior angles; same side interior angles; consecutive interior angles; supplementary; 180 -; = 180
perpendicular_bisector: {0} is the perpendicular bisector of {1}; perpendicular bisector; equidistant; same distance
bisector_of_angle_judgment: {0} bisects angle {1}; bisects; angle bisector; bisector
bisector_of_angle_property_line_ratio: the bisector {0} divides the opposite side in the ratio of the other sides;
    angle bisector theorem; angle bisector; bisector divides
bisector_of_angle_property_distance: points of the bisector {0} have the same distance from both sides; same distance;
    equidistant; angle bisector
# triangles
triangle_property_angle_sum: the angles of triangle {0} add up to 180 degrees; angle sum; sum of angles; sum of the
    angles; interior angles; 180 -; = 180
triangle_perimeter: the perimeter of triangle {0} is the sum of its sides; perimeter
triangle_area_formula_common: the area of triangle {0} is half of base times height; base times height; base * height;
    1/2 * base; half the base
triangle_area_formula_sine: the area of triangle {0} is half of two sides times the sine of their angle; sin; sine
sine_theorem: the law of sines in triangle {0}; law of sines; sine rule; sine law; sin
cosine_theorem: the law of cosines in triangle {0}; law of cosines; cosine rule; cosine law; cos
isosceles_triangle_judgment: triangle {0} is isosceles; isosceles; two equal sides
isosceles_triangle_property_angle: the base angles of the isosceles triangle {0} are equal; base angles; angles
    opposite equal sides; isosceles
isosceles_triangle_property_line: height, median and bisector of the isosceles triangle {0} coincide; coincide;
    bisects the base; isosceles
equilateral_triangle_judgment: triangle {0} is equilateral; equilateral; three equal sides
equilateral_triangle_property: each angle of the equilateral triangle {0} is 60 degrees; equilateral; = 60
right_triangle_judgment_angle: triangle {0} has a right angle; right triangle; right-angled; right angle; = 90
right_triangle_judgment_pythagorean: triangle {0} is a right triangle by its sides; right triangle; pythagorean;
    right-angled
right_triangle_property_pythagorean: the Pythagorean theorem in triangle {0}; Pythagorean; Pythagoras; hypotenuse
right_triangle_property_length_of_median: the median to the hypotenuse of triangle {0} is half of it; median; half of
    the hypotenuse; half the hypotenuse
altitude_of_quadrilateral_judgment_diagonal: a diagonal of {0} is its altitude; altitude; height
altitude_of: {0} is an altitude of {1}; altitude; height
median_of_triangle: {0} is a median of triangle {1}; median; midpoint
centroid_of_triangle_judgment: {0} is the centroid of triangle {1}; centroid; medians meet
centroid_of_triangle_property: the centroid {0} of triangle {1} divides each median 2:1; centroid; 2:1; 2/3; 1/3
incenter_of_triangle: {0} is the incenter of triangle {1}; incenter; inscribed circle; incircle
orthocenter_of_triangle: {0} is the orthocenter of triangle {1}; orthocenter; altitudes meet
midsegment_of_triangle_judgment: {0} is a midsegment of triangle {1}; midsegment; midline; midpoints
midsegment_of_triangle_property_length: the midsegment {0} is half of the third side of triangle {1}; midsegment;
    midline; half of the third side; half the length
midsegment_of_triangle_property_parallel: the midsegment {0} is parallel to the third side of triangle {1};
    midsegment; midline; parallel
congruent_triangle_judgment: triangle {0} is congruent to triangle {1}; congruent; congruence
congruent_triangle_property_line: corresponding sides of the congruent triangles {0} and {1} are equal; corresponding
    sides; corresponding parts; congruent
congruent_triangle_property_angle: corresponding angles of the congruent triangles {0} and {1} are equal;
    corresponding angles; corresponding parts; congruent
similar_triangle_judgment: triangle {0} is similar to triangle {1}; similar; similarity
similar_triangle_property_line: the sides of the similar triangles {0} and {1} are proportional; proportional; in
    proportion; same ratio; ratio of the sides; corresponding sides
similar_triangle_property_angle: corresponding angles of the similar triangles {0} and {1} are equal; corresponding
    angles
similar_triangle_property_area: the areas of the similar triangles {0} and {1} have the squared ratio of the sides;
    ratio of the areas; area ratio; square of the ratio; squared ratio
similar_triangle_property_perimeter: the perimeters of the similar triangles {0} and {1} have the ratio of the sides;
    ratio of the perimeters; perimeter ratio
# quadrilaterals
quadrilateral_property_angle_sum: the angles of quadrilateral {0} add up to 360 degrees; angle sum; sum of angles; sum
    of the angles; 360 -; = 360
quadrilateral_perimeter: the perimeter of quadrilateral {0} is the sum of its sides; perimeter
congruent_quadrilateral: quadrilaterals {0} and {1} are congruent; congruent; corresponding parts; corresponding
    sides; corresponding angles
similar_quadrilateral_property_line: the sides of the similar quadrilaterals {0} and {1} are proportional;
    proportional; same ratio; corresponding sides
similar_quadrilateral_property_angle: corresponding angles of the similar quadrilaterals {0} and {1} are equal;
    corresponding angles
similar_quadrilateral_property_area: the areas of the similar quadrilaterals {0} and {1} have the squared ratio of the
    sides; ratio of the areas; area ratio; square of the ratio; squared ratio
parallelogram_judgment: {0} is a parallelogram; parallelogram
parallelogram_property_opposite_line: opposite sides of the parallelogram {0} are equal; opposite sides
parallelogram_property_opposite_angle: opposite angles of the parallelogram {0} are equal; opposite angles
parallelogram_property_diagonal: the diagonals of the parallelogram {0} bisect each other; bisect each other;
    diagonals bisect
parallelogram_area_formula_common: the area of the parallelogram {0} is base times height; base times height; base *
    height
parallelogram_area_formula_sine: the area of the parallelogram {0} is two sides times the sine of their angle; sin;
    sine
rectangle_judgment: {0} is a rectangle; rectangle
rectangle_property_diagonal: the diagonals of the rectangle {0} are equal; diagonals are equal; equal diagonals
rhombus_judgment: {0} is a rhombus; rhombus; four equal sides
kite_judgment: {0} is a kite; kite
kite_property_diagonal: the diagonals of the kite {0} are perpendicular; diagonals are perpendicular; perpendicular
    diagonals; bisects the other diagonal
kite_property_opposite_angle: opposite angles of the kite {0} are equal; opposite angles
kite_area_formula_diagonal: the area of the kite {0} is half of the product of its diagonals; product of the
    diagonals; half the product; 1/2 * d
kite_area_formula_sine: the area of the kite {0} is two sides times the sine of their angle; sin; sine
trapezoid_judgment: {0} is a trapezoid; trapezoid; trapezium
trapezoid_area: the area of the trapezoid {0} is half of the sum of its bases times its height; sum of the bases; sum
    of the parallel sides; half the sum
right_trapezoid_judgment: {0} is a right trapezoid; right trapezoid; trapezoid; trapezium
right_trapezoid_area: the area of the trapezoid {0} is half of the sum of its bases times its height; sum of the
    bases; sum of the parallel sides; half the sum
isosceles_trapezoid_judgment: {0} is an isosceles trapezoid; isosceles trapezoid; legs are equal; equal legs
isosceles_trapezoid_property_diagonal: the diagonals of the isosceles trapezoid {0} are equal; diagonals are equal;
    equal diagonals
isosceles_trapezoid_property_angle: the base angles of the isosceles trapezoid {0} are equal; base angles
midsegment_of_quadrilateral_judgment: {0} is the midsegment of the trapezoid {1}; midsegment; midline; midpoints;
    median of the trapezoid
midsegment_of_quadrilateral_property_length: the midsegment {0} is half of the sum of the bases of {1}; midsegment;
    midline; half of the sum; half the sum; sum of the bases
# circles
radius_of_circle: {0} is a radius of circle {1}; radius; radii
diameter_of_circle_property_length: {0} is a diameter of circle {1}; diameter
diameter_of_circle_property_right_angle: angle {0} in the semicircle is a right angle; semicircle; Thales; subtended
    by a diameter; subtended by the diameter; right angle; = 90
diameter_of_circle_judgment: {0} spans a diameter of circle {1}; diameter
circle_property_length_of_radius: the diameter of circle {0} is twice its radius; twice the radius; half of the
    diameter; half the diameter; diameter / 2; 2 * radius; 2r
circle_area: the area of circle {0} is pi r^2; pi r^2; pi * r^2; area of the circle
circle_perimeter: the circumference of circle {0} is 2 pi r; circumference; 2 pi r; 2 * pi * r; pi d
sector_area: the area of the sector {0}; area of the sector; sector
arc_length: the length of the arc {0}; length of the arc; arc length
arc_property_center_angle: the central angle over the arc {0} equals its arc; central angle; center angle
arc_property_circumference_angle: the inscribed angle at {1} is half of its arc; inscribed angle; half of the arc;
    half the arc; half of the central angle; half the central angle; twice the inscribed angle
arc_addition: the arcs {0} and {1} make up one arc; sum of the arcs
round_arc: the arcs {0} and {1} add up to 360 degrees; whole circle; full circle; 360 -; = 360
congruent_arc_judgment: the arcs {0} and {1} are congruent; congruent arcs; equal arcs; arcs are equal
congruent_arc_property_measure: the congruent arcs {0} and {1} have the same measure; congruent arcs; equal arcs; arcs
    are equal
congruent_arc_property_chord: the congruent arcs {0} and {1} have equal chords; equal chords; chords are equal
circle_property_chord_perpendicular_bisect_chord: {1} is perpendicular to the chord {2} and bisects it; bisects the
    chord; perpendicular to the chord; half of the chord; half the chord; bisects
circle_property_chord_perpendicular_bisect_arc: a line from the center that is perpendicular to the chord bisects the
    arc {1}; bisects the arc; half of the arc; half the arc
circle_property_circular_power_chord: the parts of the chords {0} and {1} have equal products; intersecting chords;
    power of a point; equal products
circle_property_circular_power_tangent_and_segment_line: the square of the tangent {0} is the product of the secant
    and its outer part; tangent-secant; power of a point; square of the tangent
circle_property_circular_power_segment_and_segment_line: the secants {0} and {1} have equal products with their outer
    parts; secant; power of a point; equal products
circle_property_circular_power_tangent_and_segment_angle: the angle outside the circle is half of the difference of
    the arcs; difference of the arcs; half the difference; half of the difference
circle_property_circular_power_segment_and_segment_angle: the angle outside the circle is half of the difference of
    the arcs; difference of the arcs; half the difference; half of the difference
circle_property_angle_of_osculation: the angle between tangent and chord is half of its arc; tangent and chord;
    tangent-chord; alternate segment; half of the arc; half the arc
tangent_of_circle_property_perpendicular: the tangent {0} is perpendicular to the radius; perpendicular to the radius;
    radius is perpendicular; perpendicular to the tangent; tangent is perpendicular
tangent_of_circle_property_length: the tangents {0} and {1} from one point are equal; tangents from; tangent segments;
    equal tangents; tangents are equal
tangent_of_circle_judgment: {0} is a tangent of circle {1}; tangent
"""


def _read(table: str) -> dict[str, tuple[str, ...]]:
    """Phrases by name; an indented line goes on with the one before."""
    entries = re.sub(r"\n\s+", " ", table.strip()).splitlines()
    named = (entry.split(": ", 1) for entry in entries if not entry.startswith("#"))
    return {name: tuple(phrase.strip() for phrase in phrases.split(";")) for name, phrases in named}


THEOREM_PHRASES = _read(_TABLE)


# ---- Theorem calls as FormalGeo annotates them, `line_addition(1,AB,BD)` -> phrases of a solution in words.
#
# Each call is one key step. Its first phrasing is a sentence with the names of points; the others are what one says of
# such a theorem, and for sums of lines, angles and arcs the equation in every order of names.

_CALL = re.compile(r"([a-z][a-z_]{2,80})\(\d{1,2}((?:,[A-Z]{1,8})+)\)")
_SILENT = {"judgment", "property", "formula", "formular", "mirror"}  # words of a name that no solution says


def theorem_steps(calls: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """A key step for each call, repeated ones once; () where not all texts are theorem calls."""
    found = [_CALL.fullmatch(call.strip()) for call in calls]
    if not all(found):
        return ()
    return tuple(dict.fromkeys(_phrasings(call[1], tuple(call[2][1:].split(","))) for call in found if call))


def _phrasings(name: str, points: tuple[str, ...]) -> tuple[str, ...]:
    plain = name.removeprefix("mirror_")
    phrases = [phrase.format(*points, *[""] * 4).strip() for phrase in _templates(plain)]
    return tuple(dict.fromkeys([phrases[0], *_equations(plain, points), *phrases[1:]]))


@lru_cache
def _templates(name: str) -> tuple[str, ...]:
    """The phrases of the longest known name that this one begins with; else the name's own words."""
    known = max((prefix for prefix in THEOREM_PHRASES if name.startswith(prefix)), key=len, default=None)
    if known is None:
        return (" ".join(word for word in name.split("_") if word not in _SILENT) or name,)
    return THEOREM_PHRASES[known]


def _equations(name: str, points: tuple[str, ...]) -> list[str]:
    """`AB + BD`, `BD + AB`, `AD - AB`, .. of the calls that say how two parts make a whole."""
    lengths = [len(point) for point in points]
    if name == "right_triangle_property_pythagorean" and lengths == [3]:
        return [f"{x}^2 + {y}^2" for x, y in _pairs(_both(points[0][:2]), _both(points[0][1:]))]
    if len(points) != 2 or lengths[0] != lengths[1]:
        return []
    first, second = points
    if name == "line_addition" and lengths[0] == 2:
        return _sums(_both(first), _both(second), _both(first[0] + second[1]))
    if name == "angle_addition" and lengths[0] == 3:
        return _sums(_both(first), _both(second), _both(first[:2] + second[2]), "angle ")
    if name == "arc_addition_measure" and lengths[0] == 3:  # the first letter is the circle
        return _sums(_both(first[1:]), _both(second[1:]), _both(first[1] + second[2]), "arc ")
    if name == "adjacent_complementary_angle" and lengths[0] == 3:
        return _sums(_both(first), _both(second), (), "angle ")
    return []


def _both(name: str) -> tuple[str, str]:
    """A line or an angle is read from either end."""
    return name, name[::-1]


def _pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for x, y in product(first, second) for pair in ((x, y), (y, x))]


def _sums(first: Sequence[str], second: Sequence[str], whole: Sequence[str], kind: str = "") -> list[str]:
    """The sum of both parts, and the whole less one of them, in every order and reading."""
    parts = [f"{kind}{x} + {kind}{y}" for x, y in _pairs(first, second)]
    return parts + [f"{kind}{all_of} - {kind}{part}" for all_of in whole for part in (*first, *second)]
