//! Small line charts as SVG, two in a row. Each axis begins at zero: what grows faster than its size bends upwards.

use std::fmt::Write;

pub struct Panel {
    pub title: String,
    pub unit: &'static str,
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 220.0;
/// Around the lines: left and below for the numbers.
const MARGIN: (f64, f64, f64, f64) = (52.0, 12.0, 34.0, 30.0);

pub fn draw(panels: &[Panel]) -> String {
    let rows = panels.len().div_ceil(2);
    let height = HEIGHT * rows as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#444\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        2.0 * WIDTH
    );
    for (index, panel) in panels.iter().enumerate() {
        let (x, y) = ((index % 2) as f64 * WIDTH, (index / 2) as f64 * HEIGHT);
        let _ = writeln!(svg, "<g transform=\"translate({x} {y})\">{}</g>", panel.lines());
    }
    svg + "</svg>\n"
}

impl Panel {
    fn lines(&self) -> String {
        let (left, right, top, bottom) = MARGIN;
        let largest = |of: &dyn Fn(&(f64, f64)) -> f64| round_up(self.points.iter().map(of).fold(0.0, f64::max));
        let (most_x, most_y) = (largest(&|point| point.0), largest(&|point| point.1));
        let x = |value: f64| left + value / most_x * (WIDTH - left - right);
        let y = |value: f64| HEIGHT - bottom - value / most_y * (HEIGHT - top - bottom);
        let mut svg = format!("<text x=\"{left}\" y=\"18\" font-weight=\"bold\">{} ({})</text>", self.title, self.unit);
        for quarter in 0..=4 {
            let part = f64::from(quarter) / 4.0;
            let (at_x, at_y) = (x(most_x * part), y(most_y * part));
            let _ = write!(
                svg,
                "<path d=\"M{left} {at_y:.1}H{}\" stroke=\"#ddd\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
                 <text x=\"{at_x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                WIDTH - right,
                left - 5.0,
                at_y + 4.0,
                short(most_y * part),
                HEIGHT - bottom + 16.0,
                short(most_x * part),
            );
        }
        let line: Vec<String> = self.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ = write!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#2060a0\" stroke-width=\"2\"/>", line.join(" "));
        for point in &self.points {
            let _ = write!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"#2060a0\"/>", x(point.0), y(point.1));
        }
        svg
    }
}

/// The next of 1, 2, 4, 5, 8, 10, 20, ... : its quarters are short numbers.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0, 10.0].into_iter().map(|step| step * power).find(|end| *end >= value).unwrap_or(value)
}

/// Without what dividing by powers of ten leaves behind.
fn short(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
