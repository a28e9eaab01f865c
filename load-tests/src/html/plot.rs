//! A plot as an SVG.
//!
//! plotters draws on whole units, so a plot has four of them for each pixel that it has on a narrow screen: lines are
//! smooth, and the letters of the plot are as large as those beside it.

use anyhow::{Context as _, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged as _;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use super::marks::{self, Layout};
use super::palette::{GRID, Ink, MARK, MUTED};
use super::series::{Plot, thinned};
use crate::report::Mark;

const WIDTH: i32 = 1760;
/// Room for the labels of values, left of the plot.
const LEFT: i32 = 268;
const RIGHT: i32 = 120;
/// The first and the last column of the plot, as plotters lays it out.
const EDGES: (i32, i32) = (LEFT, WIDTH - RIGHT - 1);
const PLOT_HEIGHT: i32 = 640;
const BOTTOM: i32 = 112;
/// Above the plot: half of the topmost label.
const TOP: i32 = 36;
/// A row of labels of marks.
const LANE: i32 = 70;
const LETTERS: i32 = 56;
/// The width of a letter of a font that has one width for all, and a little more.
const LETTER: i32 = 35;
const TICK: i32 = 12;
const LINE: u32 = 7;
const BROAD_LINE: u32 = 15;
const DOT: i32 = 10;
/// More columns than this cannot be told apart.
const COLUMNS: u32 = 400;
/// plotters takes a font's size for the height of its box.
const BOX_OF_LETTERS: f64 = 1.24;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws `plot` with the axes that it shares with the plots of other runs.
pub(super) fn svg(plot: &Plot, time: &Axis, values: &Axis, layout: &Layout) -> anyhow::Result<String> {
    let lanes = LANE * i32::try_from(layout.lanes)?;
    let height = lanes + TOP + PLOT_HEIGHT + BOTTOM;
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH.unsigned_abs(), height.unsigned_abs()));
        let area = area.into_drawing_area();
        draw(plot, time, values, layout, &area)
            .map_err(|error| anyhow!("{error}"))
            .with_context(|| format!("cannot draw “{}”", plot.title))?;
    }
    Ok(svg)
}

/// Where the labels of `marks` go; the same in all plots of a run.
pub(super) fn layout(marks: &[&Mark], time: &Axis) -> Layout {
    let placed: Vec<(i32, &str)> =
        marks.iter().map(|mark| (time.map(&mark.at, EDGES), mark.label.as_str())).collect();
    marks::layout(&placed, WIDTH, LETTER)
}

fn draw(
    plot: &Plot,
    time: &Axis,
    values: &Axis,
    layout: &Layout,
    area: &Area<'_>,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let lanes = area.dim_in_pixel().1.cast_signed() - BOTTOM - PLOT_HEIGHT - TOP;
    let mut chart = ChartBuilder::on(area)
        .margin_top(lanes + TOP)
        .margin_right(RIGHT)
        .y_label_area_size(LEFT)
        .x_label_area_size(BOTTOM)
        .build_cartesian_2d(time.clone(), values.clone())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .bold_line_style(stroke(GRID, 4))
        .axis_style(stroke(GRID, 4))
        .set_all_tick_mark_size(TICK)
        .label_style(text("sans-serif", MUTED))
        .draw()?;
    draw_marks(layout, lanes, area)?;
    for line in &plot.lines {
        let width = if line.broad { BROAD_LINE } else { LINE };
        for stretch in &line.stretches {
            let points = thinned(stretch, time.range.start, time.range.end, COLUMNS);
            if stretch.len() == 1 {
                // a line through one point would not be seen
                let dot = |point| Circle::new(point, DOT, line.ink.light.filled());
                chart.draw_series(points.into_iter().map(dot))?;
            } else {
                chart.draw_series(LineSeries::new(points, stroke(line.ink, width)))?;
            }
        }
    }
    area.present()
}

fn draw_marks(
    layout: &Layout,
    lanes: i32,
    area: &Area<'_>,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    for label in &layout.labels {
        let below = i32::try_from(label.lane).unwrap_or(i32::MAX).saturating_mul(LANE);
        let top = lanes.saturating_sub(below) - LANE;
        // a number stands above its lines, a text beside its line
        let start = if layout.numbered { top + LANE } else { top };
        for line in &label.lines {
            let line = vec![(*line, start), (*line, lanes + TOP + PLOT_HEIGHT)];
            area.draw(&PathElement::new(line, stroke(MARK, 3)))?;
        }
        let style = text("monospace", MARK).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(&label.text, &style, (label.left, top + LANE / 2))?;
    }
    Ok(())
}

fn stroke(ink: Ink, width: u32) -> ShapeStyle {
    ink.light.stroke_width(width)
}

fn text(family: &'static str, ink: Ink) -> TextStyle<'static> {
    (family, f64::from(LETTERS) * BOX_OF_LETTERS).into_font().color(&ink.light)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::html::palette::{FIRST, LIMIT};
    use crate::html::series::{Line, Point, Unit};

    fn plot(stretches: Vec<Vec<Point>>) -> Plot {
        let line = Line { name: "lag", ink: FIRST, broad: false, stretches };
        Plot { title: "Lag", unit: Unit::Count, lines: vec![line], note: None }
    }

    fn drawn(plot: &Plot, marks: &[Mark]) -> String {
        let points = || plot.lines.iter().flat_map(|line| line.stretches.iter().flatten());
        let time = Axis::of_time(points().map(|point| point.0).chain(marks.iter().map(|mark| mark.at)));
        let values = Axis::of_values(points().map(|point| point.1), plot.unit);
        let svg = svg(plot, &time, &values, &layout(&marks::sorted(marks), &time)).unwrap();
        let drawing = svg.replace("http://www.w3.org/2000/svg", "");
        assert!(!drawing.contains("NaN") && !drawing.contains("inf"), "{drawing}");
        let elements: String = drawing.lines().filter(|line| line.starts_with('<')).collect();
        let numbers = elements.split([' ', ',', '"', '\n']).filter_map(|text| text.parse::<i64>().ok());
        for number in numbers {
            assert!((-1..=i64::from(WIDTH)).contains(&number), "{number} in {drawing}");
        }
        svg
    }

    fn mark(at: f64, label: &str) -> Mark {
        Mark { at, label: label.to_owned() }
    }

    #[test]
    fn a_line_has_a_gap_where_nothing_was_measured() {
        let svg = drawn(
            &plot(vec![vec![(0.0, 0.0), (1.0, 10.0)], vec![(3.0, 5.0)], vec![(4.0, 5.0), (5.0, 0.0)]]),
            &[],
        );
        let line = format!("stroke-width=\"{LINE}\"");
        let lines: Vec<&str> = svg.lines().filter(|element| element.contains(&line)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r##"
        <polyline fill="none" opacity="1" stroke="#0072B2" stroke-width="7" points="268,675 542,36 "/>
        <polyline fill="none" opacity="1" stroke="#0072B2" stroke-width="7" points="1364,356 1639,675 "/>
        "##);
        assert_eq!(svg.lines().filter(|line| line.starts_with("<circle")).count(), 1, "{svg}");
    }

    #[test]
    fn a_mark_is_where_its_moment_is_on_the_axis() {
        let svg = drawn(&plot(vec![vec![(0.0, 0.0), (5.0, 10.0), (10.0, 0.0)]]), &[mark(5.0, "SQL away")]);
        let marks: Vec<&str> = svg.lines().filter(|element| element.contains("#3A4047")).collect();
        insta::assert_snapshot!(marks.join("\n"), @r##"
        <polyline fill="none" opacity="1" stroke="#3A4047" stroke-width="3" points="953,0 953,746 "/>
        <text x="969" y="35" dy="0.5ex" text-anchor="start" font-family="monospace" font-size="56" opacity="1" fill="#3A4047">
        "##);
        assert!(svg.contains(" 953,106 "), "the line's second point is there as well: {svg}");
    }

    #[test]
    fn labels_are_escaped() {
        let svg = drawn(&plot(vec![vec![(0.0, 0.0), (5.0, 10.0)]]), &[mark(1.0, "</text><script>&\"'")]);
        assert!(svg.contains("&lt;/text&gt;&lt;script&gt;&amp;&quot;&apos;"), "{svg}");
    }

    #[test]
    fn the_same_data_make_the_same_drawing() {
        let data = plot(vec![(0..600).map(|at| (f64::from(at), f64::from(at * 7919 % 600))).collect()]);
        let marks = [mark(5.0, "SQL away"), mark(9.0, "SQL back")];
        assert_eq!(drawn(&data, &marks), drawn(&data, &marks));
    }

    #[test]
    fn extreme_values_stay_in_the_drawing() {
        for values in [[0.0, 0.0], [0.0, 1e9], [1e18, 0.0], [1e-12, 0.0]] {
            drawn(&plot(vec![vec![(0.0, values[0]), (600.0, values[1])]]), &[mark(0.0, "a"), mark(1e6, "b")]);
        }
        drawn(&plot(vec![]), &[mark(f64::NAN, "never"), mark(-5.0, "before")]);
        let latency = Plot { unit: Unit::Seconds, ..plot(vec![vec![(0.0, 1e-6), (1.0, 3600.0)]]) };
        drawn(&latency, &[]);
    }

    #[test]
    fn a_long_run_is_thinned() {
        let points = (0..100_000).map(|at| (f64::from(at), f64::from(at * 7919 % 1000))).collect();
        let svg = drawn(
            &Plot {
                lines: vec![Line { name: "lag", ink: LIMIT, broad: false, stretches: vec![points] }],
                ..plot(vec![])
            },
            &[],
        );
        assert!((5_000..40_000).contains(&svg.len()), "{} bytes", svg.len());
    }
}
