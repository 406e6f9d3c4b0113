//! Draws the plot: time over memory size, both logarithmic, as SVG.

use std::{fmt::Write as _, time::Duration};

use bytesize::ByteSize;

use super::measurement::{Measurement, median};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const MARGIN: f64 = 70.0;

struct Line {
    name: &'static str,
    colour: &'static str,
    points: Vec<(u64, Duration)>,
}

/// Draws the medians for all sizes.
pub(crate) fn draw(rows: &[Measurement]) -> String {
    let line = |name, colour, times: fn(&Measurement) -> &[Duration]| Line {
        name,
        colour,
        points: rows
            .iter()
            .filter_map(|row| Some((row.bytes, median(times(row))?)))
            .collect(),
    };
    let lines = [
        line("CheckpointContainer", "#1b6ca8", |row| &row.checkpoint),
        line("cp", "#7a7a7a", |row| &row.copy),
        line("criu dump", "#c0392b", |row| &row.criu),
        line("frozen", "#2e8b57", |row| &row.frozen),
        line("own fork()", "#b8860b", |row| &row.fork),
    ];
    let sizes = rows.iter().map(|row| row.bytes as f64);
    let times = || lines.iter().flat_map(|line| &line.points).map(|(_, time)| ms(*time));
    let (smallest, largest) = (sizes.clone().fold(f64::MAX, f64::min), sizes.fold(1.0, f64::max));
    let (quickest, slowest) = (times().fold(f64::MAX, f64::min), times().fold(0.001, f64::max));
    let scale = |value: f64, from: f64, to: f64, length: f64| match to > from {
        true => (value / from).ln() / (to / from).ln() * length,
        false => length / 2.0,
    };
    let x = |bytes: u64| MARGIN + scale(bytes as f64, smallest, largest, WIDTH - 2.5 * MARGIN);
    let y = |ms: f64| HEIGHT - MARGIN - scale(ms, quickest, slowest, HEIGHT - 2.0 * MARGIN);

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"30\" font-size=\"15\">A checkpoint beside cp and criu dump: milliseconds over memory (medians)</text>\n"
    );
    for row in rows {
        let position = x(row.bytes);
        let _ = writeln!(
            svg,
            "<path d=\"M{position:.1} {MARGIN}V{:.1}\" stroke=\"#eee\"/><text x=\"{position:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - MARGIN,
            HEIGHT - MARGIN + 20.0,
            ByteSize(row.bytes)
        );
    }
    let mut tick = 10_f64.powf(quickest.log10().ceil());
    while tick <= slowest {
        let position = y(tick);
        let _ = writeln!(
            svg,
            "<path d=\"M{MARGIN} {position:.1}H{:.1}\" stroke=\"#eee\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick} ms</text>",
            WIDTH - 1.5 * MARGIN,
            MARGIN - 6.0,
            position + 4.0
        );
        tick *= 10.0;
    }
    for line in &lines {
        let points: Vec<(f64, f64)> = line
            .points
            .iter()
            .map(|(size, time)| (x(*size), y(ms(*time))))
            .collect();
        let Some((end_x, end_y)) = points.last() else { continue };
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let Line { name, colour, .. } = line;
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\">{name}</text>",
            path.join(" "),
            end_x + 6.0,
            end_y + 4.0
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).max(0.001)
}
