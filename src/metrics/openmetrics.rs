//! The text of `/metrics`, and the reference page.
//!
//! The `prometheus` crate writes Prometheus' own text format, version 0.0.4. OpenMetrics 1.0
//! differs in what concerns us in three ways: the metadata of a counter names the family without
//! `_total`, units have a line, and the text ends with `# EOF`.

use std::fmt::Write as _;

use prometheus::TextEncoder;

use super::catalogue::{Catalogue, Definition};

pub(super) fn render(catalogue: &Catalogue) -> String {
    let mut text = String::new();
    // Encoding fails only for families without samples, which gathering leaves out.
    if TextEncoder::new().encode_utf8(&catalogue.registry.gather(), &mut text).is_err() {
        tracing::error!("some metrics could not be encoded and are missing");
    }
    let mut open = String::with_capacity(text.len() + 1024);
    for line in text.lines() {
        push_line(&mut open, line, &catalogue.definitions);
    }
    open.push_str("# EOF\n");
    open
}

fn push_line(to: &mut String, line: &str, definitions: &[Definition]) {
    let metadata = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
    let Some((keyword @ ("HELP" | "TYPE"), rest)) = metadata else {
        to.push_str(line);
        to.push('\n');
        return;
    };
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let family = name.strip_suffix("_total").unwrap_or(name);
    writeln!(to, "# {keyword} {family} {rest}").expect("a String takes everything");
    let unit = definitions.iter().find(|d| d.name == name).and_then(Definition::unit);
    if let (Some(unit), "TYPE") = (unit, keyword) {
        writeln!(to, "# UNIT {family} {unit}").expect("a String takes everything");
    }
}

pub(super) fn reference(catalogue: &Catalogue) -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         What `/metrics` on the admin port serves, in OpenMetrics text. This page is generated from the catalogue in\n\
         `src/metrics/catalogue.rs`; `UPDATE=1 cargo test --lib metrics` writes it. On Linux the usual `process_*`\n\
         metrics are there, too.\n\n\
         | Metric | Kind | Unit | Labels | Means |\n|---|---|---|---|---|\n",
    );
    for definition in &catalogue.definitions {
        let labels: Vec<_> = definition.labels.iter().map(|l| format!("`{}`: {}", l.name, l.values)).collect();
        writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            definition.name,
            definition.kind,
            definition.unit().unwrap_or(""),
            labels.join("; "),
            definition.help
        )
        .expect("a String takes everything");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::metrics;
    use crate::record::Partition;

    /// Checks what the OpenMetrics grammar asks of the parts that we rewrite.
    fn check(text: &str) -> Result<(), String> {
        let body = text.strip_suffix("# EOF\n").ok_or("no # EOF at the end")?;
        let mut families = BTreeSet::new();
        let mut current = (String::new(), String::new());
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (family, kind) = rest.split_once(' ').ok_or("a TYPE line without a type")?;
                families.insert(family.to_owned()).then_some(()).ok_or(format!("{family} occurs twice"))?;
                current = (family.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let suffixes: &[&str] = match current.1.as_str() {
                    "counter" => &["_total"],
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                let belongs = suffixes.iter().any(|suffix| name == format!("{}{suffix}", current.0));
                belongs.then_some(()).ok_or(format!("{name} is no sample of {} {}", current.1, current.0))?;
            }
        }
        Ok(())
    }

    #[test]
    fn the_text_is_openmetrics() {
        metrics::owner(metrics::Role::Deliver).commit_seconds.observe(0.003);
        metrics::lane(Partition(4_000_000_000)).resent.inc();
        let text = metrics::render();
        assert_eq!(check(&text), Ok(()), "{text}");
        assert!(text.contains("# TYPE seriatim_resent counter\n"));
        assert!(text.contains("seriatim_resent_total{lane=\"4000000000\"} 1\n"));
        assert!(text.contains("# UNIT seriatim_commit_seconds seconds\n"));
    }

    #[test]
    fn the_check_finds_what_prometheus_text_does_otherwise() {
        assert!(check("# TYPE a_total counter\na_total 1\n# EOF\n").is_err());
        assert!(check("# TYPE a counter\na_total 1\n").is_err());
        assert!(check("# TYPE a counter\na_total 1\n# TYPE a counter\n# EOF\n").is_err());
        assert_eq!(check("# TYPE a counter\na_total 1\n# EOF\n"), Ok(()));
    }
}
