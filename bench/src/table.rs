//! The report as Markdown.

use std::fmt::Write as _;

use crate::bars;
use crate::calls::Figure;
use crate::case::{Protocol, Proxy};
use crate::reading::Reading;
use crate::report::{Ratio, Report, Row};
use crate::startup::{Event, Startup};
use crate::streaming::Streaming;

/// The whole report.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = String::new();
    machine(&mut text, report);
    let mut rest: &[Row] = &report.rows;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|row| row.is_comparable_to(first)).count();
        let (group, others) = rest.split_at(count);
        rows(&mut text, group);
        let ratios: Vec<&Ratio> = report
            .ratios
            .iter()
            .filter(|ratio| {
                (ratio.scenario, ratio.protocol, ratio.access_log)
                    == (first.scenario, first.protocol, first.access_log)
            })
            .collect();
        ratio_table(&mut text, &ratios);
        rest = others;
    }
    startup(&mut text, &report.startup);
    calls(&mut text, &report.calls);
    streaming(&mut text, report.streaming.as_ref());
    readings(&mut text, &report.readings);
    bars::table(&mut text, &report.bars);
    ratio_bars(&mut text, &report.ratios);
    text
}

fn machine(text: &mut String, report: &Report) {
    let machine = &report.machine;
    let versions: Vec<String> =
        machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let _ = writeln!(
        text,
        "{}, {} cores, {} MiB, Linux {}; load average {:.2} at the start\n\n{}\n",
        machine.cpu_model,
        machine.cores,
        machine.memory_mib,
        machine.kernel,
        machine.load_average,
        versions.join("; ")
    );
}

fn rows(text: &mut String, group: &[Row]) {
    let Some(first) = group.first() else { return };
    let protocol = match first.protocol {
        Protocol::Http1 => "HTTP/1.1",
        Protocol::Http2 => "HTTP/2 cleartext",
    };
    let log = if first.access_log { "on" } else { "off" };
    let _ = write!(
        text,
        "### Request {}, {protocol}, access log {log}\n\n\
         | proxy | plug-in | CPU µs/request | requests/s | p50 µs | p99 µs | RSS MiB idle | loaded |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
        first.scenario
    );
    for row in group {
        let _ = match &row.error {
            Some(error) => {
                let line = error.lines().next().unwrap_or_default().replace('|', "\\|");
                writeln!(text, "| {} | {} | failed: {line} | | | | | |", row.proxy, row.plugin)
            }
            None => writeln!(
                text,
                "| {} | {} | {}{} | {} | {} | {} | {} | {} |",
                row.proxy,
                row.plugin,
                number(row.cpu_us_per_request, 1),
                if row.is_disturbed() { " \\*" } else { "" },
                number(row.rps, 0),
                number(row.p50_us, 0),
                number(row.p99_us, 0),
                number(row.rss_idle_mib, 1),
                number(row.rss_mib, 1)
            ),
        };
    }
    if group.iter().any(Row::is_disturbed) {
        text.push_str("\n\\* other processes kept the machine busy: not to be relied on\n");
    }
    text.push('\n');
}

fn ratio_table(text: &mut String, ratios: &[&Ratio]) {
    if ratios.is_empty() {
        return;
    }
    text.push_str("| CPU per request | ÷ peer | ratio |\n|---|---|---:|\n");
    for ratio in ratios {
        let _ = writeln!(
            text,
            "| {} {} | {} {} | {:.2} |",
            Proxy::Wasmgate,
            ratio.plugin,
            ratio.peer,
            ratio.peer_plugin,
            ratio.cpu_ratio
        );
    }
    text.push('\n');
}

fn startup(text: &mut String, times: &[Startup]) {
    if times.is_empty() {
        return;
    }
    text.push_str(
        "### Time to the first answer\n\n| what | proxy | plug-in | module cached | ms |\n|---|---|---|---|---:|\n",
    );
    for time in times {
        let what = match time.event {
            Event::Start => "start of the process",
            Event::Swap => "swap of the plug-in",
        };
        let cached = time.module_cached.map_or("", |cached| if cached { "yes" } else { "no" });
        let value = match &time.error {
            Some(error) => {
                format!("failed: {}", error.lines().next().unwrap_or_default().replace('|', "\\|"))
            }
            None => number(time.milliseconds, 0),
        };
        let _ = writeln!(text, "| {what} | {} | {} | {cached} | {value} |", time.proxy, time.plugin);
    }
    text.push('\n');
}

fn calls(text: &mut String, figures: &[Figure]) {
    if figures.is_empty() {
        return;
    }
    text.push_str("### Between host and guest, in process\n\n| | ns | bar | |\n|---|---:|---:|---|\n");
    for Figure { what, nanoseconds, bar } in figures {
        let verdict = bar.map_or("", |bar| if *nanoseconds <= bar { "met" } else { "missed" });
        let _ = writeln!(text, "| {what} | {nanoseconds:.0} | {} | {verdict} |", number(*bar, 0));
    }
    text.push('\n');
}

fn streaming(text: &mut String, streaming: Option<&Streaming>) {
    let Some(Streaming { gib_per_second, rss_idle_mib, rss_mib }) = streaming else { return };
    let verdict = if streaming.is_some_and(Streaming::passes) { "PASS" } else { "FAIL" };
    let _ = writeln!(
        text,
        "{verdict}: 1 GiB through a plug-in that reads each piece: {gib_per_second:.2} GiB/s, RSS {rss_idle_mib:.1} MiB idle, at most {rss_mib:.1} MiB\n"
    );
}

fn readings(text: &mut String, readings: &[Reading]) {
    if readings.is_empty() {
        return;
    }
    text.push_str("### Parts\n\n| part | what | proxy | | |\n|---|---|---|---:|---|\n");
    for reading in readings {
        let value = match &reading.error {
            Some(error) => {
                format!("failed: {}", error.lines().next().unwrap_or_default().replace('|', "\\|"))
            }
            None => number(reading.value, if reading.value.is_some_and(|v| v < 100.0) { 2 } else { 0 }),
        };
        let noise = if reading.is_disturbed() { " \\*" } else { "" };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {value}{noise} | {} |",
            reading.part, reading.what, reading.proxy, reading.unit
        );
    }
    if readings.iter().any(Reading::is_disturbed) {
        text.push_str("\n\\* other processes kept the machine busy: not to be relied on\n");
    }
    text.push('\n');
}

fn ratio_bars(text: &mut String, ratios: &[Ratio]) {
    for ratio in ratios {
        let (Some(bar), Some(passes)) = (ratio.bar, ratio.passes()) else { continue };
        let _ = writeln!(
            text,
            "{}: {} with the {} plug-in ÷ {} without, access log {}: {:.2} (bar {bar})",
            if passes { "PASS" } else { "FAIL" },
            Proxy::Wasmgate,
            ratio.plugin,
            ratio.peer,
            if ratio.access_log { "on" } else { "off" },
            ratio.cpu_ratio
        );
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::machine::Machine;
    use crate::report::Sample;

    fn row(name: &str, cpu_us_per_request: f64) -> Row {
        let case = Case::all().into_iter().find(|case| case.to_string() == name).unwrap();
        let mut row = Row::new(case);
        row.add(Sample {
            cpu_us_per_request,
            rps: 40_000.0,
            p50_us: 200,
            p99_us: 900,
            rss_mib: 30.0,
            rss_idle_mib: 20.0,
            share_of_others: 0.0,
        });
        row
    }

    #[test]
    fn the_report_has_a_table_per_group_and_a_verdict_per_bar() {
        let machine = Machine {
            cpu_model: "CPU".to_owned(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6".to_owned(),
            load_average: 0.0,
            versions: [("nginx".to_owned(), "1.22.1".to_owned())].into(),
        };
        let mut failed = row("denied/http1/log-off/envoy/go", 1.0);
        failed.error = Some("a|b\nmore".to_owned());
        let rows = vec![
            row("allowed/http1/log-off/envoy/none", 30.0),
            row("allowed/http1/log-off/wasmgate/go", 15.0),
            failed,
        ];
        let text = markdown(&Report::new(machine, rows, Vec::new(), Vec::new(), None, Vec::new()));
        assert!(text.contains("| envoy | none | 30.0 | 40000 | 200 | 900 | 20.0 | 30.0 |\n"), "{text}");
        assert!(text.contains("| wasmgate go | envoy none | 0.50 |\n"), "{text}");
        assert!(text.contains("| envoy | go | failed: a\\|b |"), "{text}");
        assert!(text.ends_with(
            "PASS: wasmgate with the go plug-in ÷ envoy without, access log off: 0.50 (bar 0.6)\n"
        ));
    }
}
