//! The report as one HTML file that needs no other: no script, nothing from the network.

use std::io::{self, Write};

use super::figures::{Figures, Line, Section};
use super::text;
use crate::accuracy;
use crate::names::{Names, title};
use crate::units;

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
const BOTTOM: f64 = 24.0;

/// Writes the file.
pub(super) fn write(figures: &Figures, names: &Names, writer: &mut dyn Write) -> io::Result<()> {
    let name = escaped(&figures.period.name());
    write!(
        writer,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Traffic, {name}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>Traffic, {name}</h1>\n<p>{}</p>\n",
        escaped(&text::headline(figures, names))
    )?;
    for sentence in accuracy::sentences(&figures.accuracy, figures.total.error) {
        writeln!(writer, "<p>{}</p>", escaped(&sentence))?;
    }
    write_chart(figures, writer)?;
    for (name, section) in [
        ("Local addresses", &figures.addresses),
        ("Services", &figures.services),
    ] {
        write_section(name, section, figures, names, writer)?;
    }
    write!(
        writer,
        "<footer>{}</footer>\n</main>\n</body>\n</html>\n",
        escaped(&text::footnote(figures, names))
    )
}

fn write_chart(figures: &Figures, writer: &mut dyn Write) -> io::Result<()> {
    let steps = &figures.total.steps;
    let largest = (steps.iter().map(|(sent, received)| sent + received))
        .chain(figures.previous_steps.iter().copied())
        .max()
        .unwrap_or_default();
    let top = round_up(largest);
    let (bottom, tall) = (HEIGHT - BOTTOM, HEIGHT - BOTTOM - TOP);
    let wide = (WIDTH - LEFT) / steps.len().max(1) as f64;
    let height = |bytes: u64| bytes as f64 / top as f64 * tall;
    writeln!(
        writer,
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"Bytes by step\">"
    )?;
    for quarter in 0..=4 {
        let y = bottom - tall * f64::from(quarter) / 4.0;
        writeln!(
            writer,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            units::bytes(top / 4 * quarter as u64)
        )?;
    }
    // Every name has the room that it needs.
    let every = (38.0 / wide).ceil().max(1.0) as usize;
    for (index, (begin, &(sent, received))) in figures.steps.iter().zip(steps).enumerate() {
        let x = LEFT + wide * index as f64;
        let name = figures.period.step_name(*begin);
        let (low, high) = (height(sent), height(received));
        writeln!(
            writer,
            "<g><title>{name}: {} sent, {} received</title>\
             <rect class=\"sent\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{low:.1}\"/>\
             <rect class=\"received\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{high:.1}\"/></g>",
            units::bytes(sent),
            units::bytes(received),
            x + wide * 0.1,
            bottom - low,
            wide * 0.8,
            x + wide * 0.1,
            bottom - low - high,
            wide * 0.8,
        )?;
        if index % every == 0 {
            writeln!(
                writer,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
                x + wide / 2.0,
                HEIGHT - 6.0
            )?;
        }
    }
    let points: Vec<String> = figures
        .previous_steps
        .iter()
        .take(steps.len())
        .enumerate()
        .map(|(index, &bytes)| {
            let x = LEFT + wide * (index as f64 + 0.5);
            format!("{x:.1},{:.1}", bottom - height(bytes))
        })
        .collect();
    if figures.previous_steps.iter().any(|&bytes| bytes > 0) {
        writeln!(
            writer,
            "<polyline class=\"before\" points=\"{}\"/>",
            points.join(" ")
        )?;
    }
    let previous = format!("total of {}", figures.previous.0.name());
    writeln!(writer, "<g class=\"key\">")?;
    for (index, (class, name)) in [
        ("sent", "sent"),
        ("received", "received"),
        ("before", &previous),
    ]
    .into_iter()
    .enumerate()
    {
        let x = LEFT + 90.0 * index as f64;
        writeln!(
            writer,
            "<rect class=\"{class}\" x=\"{x}\" y=\"5\" width=\"12\" height=\"12\"/>\
             <text x=\"{}\" y=\"15\">{}</text>",
            x + 17.0,
            escaped(name)
        )?;
    }
    writeln!(writer, "</g>\n</svg>")
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

fn write_section(
    name: &str,
    section: &Section,
    figures: &Figures,
    names: &Names,
    writer: &mut dyn Write,
) -> io::Result<()> {
    if section.lines.is_empty() {
        return Ok(());
    }
    write!(
        writer,
        "<h2>{name}</h2>\n<div class=\"scroll\"><table>\n<tr>"
    )?;
    for &field in section.by {
        write!(writer, "<th>{}</th>", title(field))?;
    }
    for title in text::titles(figures) {
        write!(writer, "<th class=\"n\">{title}</th>")?;
    }
    writeln!(writer, "<th>OVER TIME</th><th>SHARE</th></tr>")?;
    for line in &section.lines {
        write!(writer, "<tr>")?;
        for cell in names.key(&line.key) {
            write!(writer, "<td>{}</td>", escaped(&cell))?;
        }
        for cell in text::cells(line, figures) {
            write!(writer, "<td class=\"n\">{}</td>", escaped(&cell))?;
        }
        write!(writer, "<td>")?;
        write_spark(line, writer)?;
        write!(writer, "</td><td class=\"part\">")?;
        write_share(line, figures, writer)?;
        writeln!(writer, "</td></tr>")?;
    }
    writeln!(writer, "</table></div>")?;
    let shown = section.lines.len() as u64;
    if shown < section.count {
        writeln!(
            writer,
            "<p class=\"more\">{shown} of {} are shown.</p>",
            units::separated(section.count)
        )?;
    }
    Ok(())
}

/// The line's steps, against its own largest.
fn write_spark(line: &Line, writer: &mut dyn Write) -> io::Result<()> {
    let bytes: Vec<u64> = line
        .steps
        .iter()
        .map(|(sent, received)| sent + received)
        .collect();
    let largest = bytes.iter().copied().max().unwrap_or_default().max(1);
    write!(
        writer,
        "<svg class=\"spark\" viewBox=\"0 0 {} 20\" preserveAspectRatio=\"none\" \
         aria-hidden=\"true\">",
        bytes.len() * 4
    )?;
    for (index, &bytes) in bytes.iter().enumerate().filter(|(_, bytes)| **bytes > 0) {
        let height = (bytes as f64 / largest as f64 * 20.0).max(0.5);
        write!(
            writer,
            "<rect class=\"received\" x=\"{}\" y=\"{:.1}\" width=\"3\" height=\"{height:.1}\"/>",
            index * 4,
            20.0 - height
        )?;
    }
    write!(writer, "</svg>")
}

/// The line's part of all bytes.
fn write_share(line: &Line, figures: &Figures, writer: &mut dyn Write) -> io::Result<()> {
    let all = figures.total.counters.bytes().max(1) as f64;
    let part = |bytes: u64| bytes as f64 / all * 100.0;
    let (sent, received) = (
        part(line.counters.sent_bytes),
        part(line.counters.received_bytes),
    );
    write!(
        writer,
        "<svg viewBox=\"0 0 100 10\" preserveAspectRatio=\"none\" style=\"height:.8rem\">\
         <title>{:.1} % of all bytes</title>\
         <rect class=\"sent\" width=\"{sent:.2}\" height=\"10\"/>\
         <rect class=\"received\" x=\"{sent:.2}\" width=\"{received:.2}\" height=\"10\"/></svg>",
        sent + received
    )
}

/// Text as it stands in HTML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        assert_eq!(
            escaped("<b title=\"a\" id='b'>&"),
            "&lt;b title=&quot;a&quot; id=&#39;b&#39;&gt;&amp;"
        );
    }

    #[test]
    fn scale_is_not_less_and_hardly_more() {
        for bytes in [0, 1, 5, 1000, 1 << 20, (1 << 30) + 1, u64::MAX / 2] {
            let top = round_up(bytes);
            assert!(top >= bytes && top % 4 == 0, "{bytes}: {top}");
            assert!(bytes < 8 || top <= bytes * 2, "{bytes}: {top}");
        }
    }
}
