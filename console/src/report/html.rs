// SPDX-License-Identifier: GPL-2.0-or-later
//! The report as one HTML file that needs no other: no script, nothing from the network.

use std::io::{self, Write};

use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::figures::{Figures, Line, Section};
use super::text;
use crate::accuracy;
use crate::names::{Names, title};
use trafstat_cli::units;

const STYLE: &str = "
:root{color-scheme:light dark;--text:#1b1f24;--muted:#57606a;--line:#d0d7de;--back:#fff;\
--sent:#0969da;--received:#54aeff;--before:#bf5700}
@media(prefers-color-scheme:dark){:root{--text:#e6edf3;--muted:#8d96a0;--line:#30363d;\
--back:#0d1117;--sent:#1f6feb;--received:#79c0ff;--before:#f0883e}}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:960px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{color:var(--muted);font-weight:600;font-size:.8rem;text-align:left}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);white-space:nowrap}
.n{text-align:right}.part{width:8rem}
svg{display:block;width:100%;height:auto}svg text{fill:var(--muted);font-size:11px}
.sent{fill:var(--sent)}.received{fill:var(--received)}
.before{fill:none;stroke:var(--before);stroke-width:1.5}
.key .before{fill:var(--before);stroke:none}.grid{stroke:var(--line)}
.spark{width:8rem;height:1.6rem}
footer,p.more{color:var(--muted);font-size:.85rem}footer{margin:2rem 0}
.scroll{overflow-x:auto}
";

/// Cells of the drawing, in its own units.
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 30.0;
/// The lower edge of the bars.
const BASE: f64 = HEIGHT - 24.0;

/// Writes the file.
pub(super) fn write(figures: &Figures, names: &Names, writer: &mut dyn Write) -> io::Result<()> {
    writeln!(writer, "{}", page(figures, names).into_string())
}

fn page(figures: &Figures, names: &Names) -> Markup {
    let title = format!("Traffic, {}", figures.period.name());
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy"
                    content="default-src 'none'; style-src 'unsafe-inline'";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    p { (text::headline(figures, names)) }
                    @for sentence in text::inexact(figures, names) {
                        p { (sentence) }
                    }
                    @for sentence in accuracy::sentences(&figures.accuracy, figures.total.error) {
                        p { (sentence) }
                    }
                    (chart(figures))
                    (section("Local addresses", &figures.addresses, figures, names))
                    (section("Services", &figures.services, figures, names))
                    footer { (text::footnote(figures, names)) }
                }
            }
        }
    }
}

/// The chart's scales.
struct Scale {
    /// The number of bytes at the upper edge.
    top: u64,
    /// The width of a step.
    step: f64,
}

impl Scale {
    fn of(figures: &Figures) -> Self {
        let steps = &figures.total.steps;
        let largest = (steps.iter().map(|(sent, received)| sent + received))
            .chain(figures.previous_steps.iter().copied())
            .max()
            .unwrap_or_default();
        Self {
            top: round_up(largest),
            step: (WIDTH - LEFT) / steps.len().max(1) as f64,
        }
    }

    fn height(&self, bytes: u64) -> f64 {
        bytes as f64 / self.top as f64 * (BASE - TOP)
    }

    /// The left edge of a step.
    fn left(&self, index: usize) -> f64 {
        LEFT + self.step * index as f64
    }
}

fn chart(figures: &Figures) -> Markup {
    let scale = Scale::of(figures);
    let steps = &figures.total.steps;
    // A step's name is 38 units wide at most.
    let named = (38.0 / scale.step).ceil().max(1.0) as usize;
    html! {
        svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label="Bytes by step" {
            @for quarter in 0..=4 { (grid_line(&scale, quarter)) }
            @for (index, (begin, step)) in figures.steps.iter().zip(steps).enumerate() {
                (bars(&scale, figures, index, *begin, *step))
                @if index % named == 0 {
                    text x=(tenths(scale.left(index) + scale.step / 2.0)) y=(tenths(HEIGHT - 6.0))
                        text-anchor="middle" { (figures.period.step_name(*begin)) }
                }
            }
            @if figures.previous_steps.iter().any(|&bytes| bytes > 0) {
                polyline class="before" points=(previous_points(&scale, figures)) {}
            }
            (legend(figures))
        }
    }
}

fn grid_line(scale: &Scale, quarter: u32) -> Markup {
    let y = BASE - (BASE - TOP) * f64::from(quarter) / 4.0;
    html! {
        line class="grid" x1=(LEFT) x2=(WIDTH) y1=(tenths(y)) y2=(tenths(y)) {}
        text x=(tenths(LEFT - 8.0)) y=(tenths(y + 4.0)) text-anchor="end" {
            (units::bytes(scale.top / 4 * u64::from(quarter)))
        }
    }
}

/// The bars of a step: what was sent, and above it what was received.
fn bars(
    scale: &Scale,
    figures: &Figures,
    index: usize,
    begin: Timestamp,
    (sent, received): (u64, u64),
) -> Markup {
    let (x, width) = (scale.left(index) + scale.step * 0.1, scale.step * 0.8);
    let (low, high) = (scale.height(sent), scale.height(received));
    let seconds = figures.step_seconds.get(index).copied().unwrap_or_default();
    if seconds == 0.0 && sent + received == 0 && begin < figures.until {
        return html! {
            g {
                title { (figures.period.step_name(begin)) ": not counted" }
                rect x=(tenths(x)) y=(TOP) width=(tenths(width)) height=(BASE - TOP)
                    fill="currentColor" opacity="0.08" {}
            }
        };
    }
    html! {
        g {
            title {
                (figures.period.step_name(begin)) ": " (units::bytes(sent)) " sent, "
                (units::bytes(received)) " received"
            }
            rect class="sent" x=(tenths(x)) y=(tenths(BASE - low)) width=(tenths(width))
                height=(tenths(low)) {}
            rect class="received" x=(tenths(x)) y=(tenths(BASE - low - high)) width=(tenths(width))
                height=(tenths(high)) {}
        }
    }
}

/// The points of the line of the period before, in the middle of each step.
fn previous_points(scale: &Scale, figures: &Figures) -> String {
    let steps = figures
        .previous_steps
        .iter()
        .take(figures.total.steps.len());
    let points = steps.enumerate().map(|(index, &bytes)| {
        let x = LEFT + scale.step * (index as f64 + 0.5);
        format!("{x:.1},{:.1}", BASE - scale.height(bytes))
    });
    points.collect::<Vec<_>>().join(" ")
}

fn legend(figures: &Figures) -> Markup {
    let previous = format!("total of {}", figures.previous.0.name());
    let entries = [
        ("sent", "sent"),
        ("received", "received"),
        ("before", &previous),
    ];
    html! {
        g.key {
            @for ((class, name), x) in entries.into_iter().zip([0.0, 90.0, 180.0]) {
                rect class=(class) x=(LEFT + x) y="5" width="12" height="12" {}
                text x=(LEFT + x + 17.0) y="15" { (name) }
            }
        }
    }
}

/// A number of bytes that is not less, and whose quarters have short names.
fn round_up(bytes: u64) -> u64 {
    let mut unit: u64 = 4;
    while let Some(larger) = unit.checked_mul(2).filter(|_| unit < bytes) {
        unit = larger;
    }
    // Three quarters of a power of two are enough for many.
    match unit / 4 * 3 {
        less if less >= bytes && less % 4 == 0 => less,
        _ => unit,
    }
}

fn section(name: &str, section: &Section, figures: &Figures, names: &Names) -> Markup {
    let shown = section.lines.len() as u64;
    html! {
        @if shown > 0 {
            h2 { (name) }
            div.scroll {
                table {
                    tr {
                        @for &field in section.by { th { (title(field)) } }
                        @for title in text::titles(figures) { th.n { (title) } }
                        th { "OVER TIME" }
                        th { "SHARE" }
                    }
                    @for line in &section.lines {
                        tr {
                            @for cell in names.key(&line.key) { td { (cell) } }
                            @for cell in text::cells(line, figures) { td.n { (cell) } }
                            td { (spark(line)) }
                            td.part { (share(line, figures)) }
                        }
                    }
                }
            }
            @if shown < section.count {
                p.more { (shown) " of " (units::separated(section.count)) " are shown." }
            }
        }
    }
}

/// The line's steps, against its own largest.
fn spark(line: &Line) -> Markup {
    let bytes: Vec<u64> = line
        .steps
        .iter()
        .map(|(sent, received)| sent + received)
        .collect();
    let largest = bytes.iter().copied().max().unwrap_or_default().max(1);
    let height = |bytes: u64| (bytes as f64 / largest as f64 * 20.0).max(0.5);
    html! {
        svg.spark viewBox={ "0 0 " (bytes.len() * 4) " 20" } preserveAspectRatio="none"
            aria-hidden="true" {
            @for (index, &bytes) in bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
                rect class="received" x=(index * 4) y=(tenths(20.0 - height(bytes))) width="3"
                    height=(tenths(height(bytes))) {}
            }
        }
    }
}

/// The line's part of all bytes.
fn share(line: &Line, figures: &Figures) -> Markup {
    let all = figures.total.counters.bytes().max(1) as f64;
    let percent = |bytes: u64| bytes as f64 / all * 100.0;
    let sent = percent(line.counters.sent_bytes);
    let received = percent(line.counters.received_bytes);
    let hundredths = |number: f64| format!("{number:.2}");
    html! {
        svg viewBox="0 0 100 10" preserveAspectRatio="none" style="height:.8rem" {
            title { (tenths(sent + received)) " % of all bytes" }
            rect class="sent" width=(hundredths(sent)) height="10" {}
            rect class="received" x=(hundredths(sent)) width=(hundredths(received)) height="10" {}
        }
    }
}

/// A number with one decimal.
fn tenths(number: f64) -> String {
    format!("{number:.1}")
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use trafstat_store::query::{Accuracy, Field, Value};

    use super::super::period::{Length, Period, Which};
    use super::super::samples::SampleInterval;
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let now = Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
        let period = Period::new(Length::Day, Which::Last, &now).unwrap();
        let section = |lines| Section {
            by: &[Field::Account],
            lines,
            count: 1,
        };
        let figures = Figures {
            until: now.timestamp(),
            previous: (period.previous().unwrap(), now.timestamp()),
            period,
            sample: SampleInterval::Hour,
            epochs: 1,
            accuracy: Accuracy::default(),
            inexact: None,
            previous_inexact: None,
            missing_samples: None,
            missing_steps: None,
            samples_are_spread: false,
            total: Line::default(),
            addresses: section(vec![Line {
                key: vec![Value::Name("<b title=\"a\" id='b'>&".to_owned())],
                ..Line::default()
            }]),
            services: section(Vec::new()),
            steps: Vec::new(),
            step_seconds: Vec::new(),
            previous_steps: Vec::new(),
        };
        let html = page(&figures, &Names::new(TimeZone::UTC, true)).into_string();
        assert!(
            html.contains("<td>&lt;b title=&quot;a&quot; id='b'&gt;&amp;</td>"),
            "{html}"
        );
        assert!(!html.contains("<b "), "{html}");
    }

    #[test]
    fn scale_is_not_less_and_hardly_more() {
        for bytes in [0, 1, 5, 1000, 1 << 20, (1 << 30) + 1, u64::MAX / 2] {
            let top = round_up(bytes);
            assert!(top >= bytes && top.is_multiple_of(4), "{bytes}: {top}");
            assert!(bytes < 8 || top <= bytes * 2, "{bytes}: {top}");
        }
    }
}
