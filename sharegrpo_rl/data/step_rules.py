"""Rules that make key steps of the annotations of two data sets: theorem calls, and sentences about a puzzle.

A rule takes the row's list of texts and returns key steps, each as its equivalent phrasings, or () where the list is
not of its kind. A new rule is a function here and a name in `steps_by_rule`. The phrasings are our own words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import Any

from sharegrpo_rl.data.types import KeySteps


def steps_by_rule(value: Sequence[Any]) -> KeySteps:
    """Key steps by the first rule that knows lists of this kind; () where none does, or where an item is no text."""
    if not value or not all(isinstance(item, str) for item in value):
        return ()
    return theorem_steps(value) or puzzle_steps(value)


def _read_table(table: str) -> dict[str, tuple[str, ...]]:
    """`name: phrase; phrase`, one entry a line; an indented line continues the one before."""
    entries = re.sub(r"\n\s+", " ", table.strip()).splitlines()
    named = (entry.split(": ", 1) for entry in entries if not entry.startswith("#"))
    return {name: tuple(phrase.strip() for phrase in phrases.split(";")) for name, phrases in named}


# FormalGeo annotates theorem calls such as `line_addition(1,AB,BD)`. Here is what a solution in words says where a
# theorem is used, by the beginning of its name. The first phrase is a sentence; {0}, {1} are the call's points.
THEOREM_PHRASES = _read_table("""
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
""")
_CALL = re.compile(r"([a-z][a-z_]{2,80})\(\d{1,2}((?:,[A-Z]{1,8})+)\)")
_UNSAID = {"judgment", "property", "formula", "formular", "mirror"}  # words of a name that no solution says


def theorem_steps(calls: Sequence[str]) -> KeySteps:
    """A key step for each call, repeated ones once; () where not all texts are theorem calls."""
    matches = [_CALL.fullmatch(call.strip()) for call in calls]
    if not all(matches):
        return ()
    return tuple(dict.fromkeys(_phrasings(match[1], tuple(match[2][1:].split(","))) for match in matches if match))


def _phrasings(name: str, points: tuple[str, ...]) -> tuple[str, ...]:
    plain = name.removeprefix("mirror_")
    phrases = [phrase.format(*points, *[""] * 4).strip() for phrase in _templates(plain)]
    return tuple(dict.fromkeys([phrases[0], *_equations(plain, points), *phrases[1:]]))


@lru_cache
def _templates(name: str) -> tuple[str, ...]:
    """The phrases of the longest known name that this one begins with; else the name's own words."""
    known = max((prefix for prefix in THEOREM_PHRASES if name.startswith(prefix)), key=len, default=None)
    if known is None:
        return (" ".join(word for word in name.split("_") if word not in _UNSAID) or name,)
    return THEOREM_PHRASES[known]


def _equations(name: str, points: tuple[str, ...]) -> list[str]:
    """`AB + BD`, `BD + AB`, `AD - AB`, ... of the calls that say how two parts make a whole."""
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
    return parts + [f"{kind}{total} - {kind}{part}" for total in whole for part in (*first, *second)]


# PuzzleVQA has three sentences: what is seen (with lists), what is observed (facts, then the pattern), the conclusion.
# Each list, each fact and the pattern are one key step; the answer is none.
_LIST = re.compile(r"\[([^\[\]]{1,200})\]")
_PATTERN = re.compile(r"the pattern is (?:most likely )?th(?:at|e) (.{3,300})\.$")
_CONCLUSION = re.compile(r"Based on the pattern that (.{3,300}?), the (?:missing|size) .{1,300} should be .{1,80}\.$")
# What is observed -> ways to say it; {0}, {1}, ... are the parts in brackets.
_FACTS = _read_table(r"""
(\d+) \+ (\d+) = (\d+): {0} + {1} = {2}; {1} + {0} = {2}; {0} plus {1}; {1} plus {0}; sum of {0} and {1}
number (\d+) is the product of (\d+) and (\d+): {1} * {2} = {0}; {2} * {1} = {0}; {0} = {1} * {2}; {0} = {2} * {1};
    product of {1} and {2}; product of {2} and {1}; {1} times {2}; {2} times {1}
\[(\d+), (\d+), (\d+)\] (?:also )?sums to (\d+): {0} + {1} + {2} = {3}; {0}, {1}, {2} add up to {3}; {0} + {1} + {2};
    sums to {3}; sum to {3}; sum is {3}; add up to {3}
numbers in the (\w+) parts (?:also )?add up to (\d+): {0} parts add up to {1}; {0} numbers add up to {1}; {0} add up
    to {1}; {0} parts sum to {1}; {0}: {1}
polygons? with (\d+) sides is (\w+): {0} sides is {1}; {0} sides are {1}; {0}-sided polygon is {1}; {1} polygon has
    {0} sides; {1} polygons have {0} sides
polygon with (\d+) sides has the number (\d+): {0} sides has the number {1}; {0} sides has number {1}; {0} sides: {1};
    number {1} has {0} sides
cells with number (\d+) is (\w+): number {0} is {1}; {0} is {1}; {0} are {1}; {0}: {1}; {1} is {0}; {1} {0}
(\w+) rectangles are (?:of |denoted as )?(\w+): {0} rectangles are {1}; {0} is {1}; {0} rectangles have {1}; {0}: {1};
    {1} rectangles are {0}; {1} is {0}
circles at the corners are (\w+): corners are {0}; corner circles are {0}; {0} corners; {0} at the corners
adjacent to the center are (\w+): adjacent to the center are {0}; next to the center are {0}; edges are {0}; {0} edges
center circle is (\w+): center is {0}; center circle is {0}; {0} center; {0} in the center
(\w+) part is opposite another \w+ part: {0} is opposite {0}; {0} part is opposite another {0} part; {0} opposite {0};
    {0} parts are opposite
the (\w+) and (\w+) squares overlap to form (\w+): {0} and {1} make {2}; {1} and {0} make {2}; {0} and {1} form {2};
    {0} + {1} = {2}; {1} + {0} = {2}; mixing {0} and {1}; mixing {1} and {0}
the (\w+) is reflected: {0} is reflected; {0} is mirrored; reflection of the {0}; {0} reflects; {0} to {0}
largest circle is ([\w ]+?) color: largest circle is {0}; largest is {0}; biggest circle is {0}; {0} is the largest
change color from ([\w ]+?) to ([\w ]+?)\.: from {0} to {1}; {0} to {1}
(largest|smallest) value (\d+): {0} value {1}; {0} value is {1}; {0} number is {1}; {0} number {1}; {1} is the {0}
rows contain (\w+) shapes, (\w+) shapes, and (\w+) shapes: rows contain {0}, {1}, {2}; rows are {0}, {1}, {2}; {0},
    {1}, {2}; {0}, {1} and {2}
rows contain (\w+)s, (\w+)s, and (\w+)s: rows contain {0}s, {1}s, {2}s; rows are {0}, {1}, {2}; {0}, {1}, {2}; {0},
    {1} and {2}
columns contain (\w+) shapes, (\w+) shapes, and (\w+) shapes: columns contain {0}, {1}, {2}; columns are {0}, {1},
    {2}; {0}, {1}, {2}; {0}, {1} and {2}
columns contain (\w+)s, (\w+)s, and (\w+)s: columns contain {0}s, {1}s, {2}s; columns are {0}, {1}, {2}; {0}, {1},
    {2}; {0}, {1} and {2}
the (?!corners)(\w+)s are (\w+) size: {0}s are {1}; {0} is {1}; {1} {0}; {0}: {1}
from (small|large) to medium to (small|large): {0} to medium to {1}; {0}, medium, {1}; {0}, medium and {1}
look like an? (\w+) but .{1,60} like an? (\w+): from {0} to {1}; {0} to {1}; {0} into a {1}; {0} becomes a {1}; {0}
    changes into a {1}
""")
# A word or two of the pattern -> shorter ways to say it.
_SHORT = _read_table("""
larger the number: larger numbers have larger circles; size follows the number; bigger the number; larger number
at the corner: corners are the same; corners and edges alternate; depends on the position
opposite parts: opposite parts are the same; opposite parts have the same color; same color as the opposite; opposite
    parts match
same color add up: same color add up; same color sum to; sum of the same color
mixing the two colors: colors mix; mixing the colors; mix of the two colors; mixture
become (lighter|darker): smaller circles are {0}; {0} as they become smaller; smaller is {0}
same value: same sum; same total; equal sums; sum of each row
same number will have: same number has the same color; same number, same color; color depends on the number
number of sides have: same number of sides, same color; color depends on the number of sides; same number of sides
number of sides the polygon: number of sides; number equals the sides; counts the sides
color of each rectangle: same length, same color; color depends on the length; color matches the length
number in each rectangle: same length, same number; number depends on the length; number matches the length
is reflected in: bottom mirrors the top; mirror image; reflection; same shape on both sides
while each (row|column): size changes by {0}; each {0} has one size; size depends on the {0}
distinct size: each shape has its own size; same shape, same size; size depends on the shape
each arm get bigger: get bigger; grow away from the center; larger away from the center
product of the other two: product of the other two; multiply the other two; product of the first two
sum of the numbers: sum of the circles; sum of both circles; overlap is the sum; add the numbers
morphing between: morph; shapes change; change gradually; gradually change
""")


def puzzle_steps(sentences: Sequence[str]) -> KeySteps:
    """Key steps of [caption, explanation, deduction]; () where the three are not of PuzzleVQA's form."""
    if len(sentences) != 3 or not (pattern := _PATTERN.search(sentences[1])):
        return ()
    if not (conclusion := _CONCLUSION.match(sentences[2])):
        return ()
    observed = sentences[1][: pattern.start()]
    lists = [_list_phrasings(match[1]) for match in _LIST.finditer(sentences[0])]
    facts = [
        (*_filled(phrases, match), match[0])
        for form, phrases in _FACTS.items()
        for match in re.finditer(form, observed)
    ]
    short = next(
        (_filled(phrases, match) for form, phrases in _SHORT.items() if (match := re.search(form, pattern[1]))), ()
    )
    steps = (*filter(None, lists), *facts, (pattern[1], conclusion[1], *short))
    return tuple(dict.fromkeys(tuple(dict.fromkeys(step)) for step in steps))


def _list_phrasings(inside: str) -> tuple[str, ...]:
    """`1, 2, '?'` -> with and without `and`; () for a list that shows less than two things."""
    plain = inside.replace("'", "")
    items = [pair.strip("() ") for pair in plain.split("), (")] if "(" in plain else plain.split(", ")
    if sum("?" not in item for item in items) < 2:
        return ()
    return ", ".join(items), f"{', '.join(items[:-1])} and {items[-1]}", *([plain] if "(" in plain else [])


def _filled(phrases: Sequence[str], match: re.Match[str]) -> tuple[str, ...]:
    return tuple(phrase.format(*match.groups()) for phrase in phrases)
