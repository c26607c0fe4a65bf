//! The rules.

use crate::source::Source;

/// A rule, with code that breaks it and code that keeps it.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) check: fn(&Source) -> Vec<String>,
    pub broken_by: (&'static str, fn() -> String),
    pub kept_by: (&'static str, &'static str),
}

/// The longest line, in characters; rustfmt holds it where it can break lines.
const LINE_MAX: usize = 120;
/// The longest function, so that it fits a screen; its code lines count.
const FUNCTION_MAX: usize = 70;
/// The longest file, tests, comments and blank lines not counted.
const FILE_MAX: usize = 400;

/// Below: what each module may use of the others. Dependencies point one way:
/// process -> stages -> order, log -> record.
const LAYERS: [(&str, &[&str]); 17] = [
    ("record", &[]),
    ("framing", &[]),
    ("metrics", &["record"]),
    ("log", &["record", "metrics"]),
    ("topics", &["record", "log"]),
    ("order", &["record"]),
    ("takeover", STAGE),
    ("observe", &["record", "metrics", "log", "topics", "order", "takeover", "resequence"]),
    ("audit", &["record", "log", "topics"]),
    ("ingress", &["record", "framing", "metrics", "log", "topics", "order", "takeover", "observe"]),
    ("work", STAGE),
    ("resequence", STAGE),
    ("deliver", &["record", "framing", "metrics", "log", "topics", "order", "takeover"]),
    ("process", &["*"]),
    ("cli", &["*"]),
    ("lib", &["*"]),
    ("main", &["*"]),
];
const STAGE: &[&str] = &["record", "metrics", "log", "topics", "order", "takeover"];

/// The only module that may hold code which the compiler cannot check.
const CALLS_C: &str = "src/log/kafka/native";

/// Crates of Cargo.toml that the pure core may use; std apart.
const OF_ORDER: [&str; 2] = ["bytes", "thiserror"];

/// What is not to be used, where, and why.
const BANNED: [(&str, &[&str], &str); 8] = [
    ("unwrap()", &["*"], "say why it cannot fail: expect(\"...\"), or handle it"),
    ("mem::forget", &["*"], "what must not be dropped is held"),
    ("println!", NOT_CLI, "standard output is for the data of verbs; use tracing"),
    ("eprintln!", NOT_CLI, "use tracing"),
    ("process::exit", NOT_CLI, "only the command line ends the program, so that it can be embedded"),
    ("SystemTime", SIMULATED, "time comes from tokio::time and the log, so that simulation can turn it"),
    ("std::time::Instant", SIMULATED, "time comes from tokio::time and the log, so that simulation can turn it"),
    ("tokio::spawn", SIMULATED, "a stage is one future: dropping it is a crash, not polling it a freeze"),
];
const SIMULATED: &[&str] = &["order", "takeover", "work", "resequence", "deliver"];
/// The parts of stages that talk to the world outside, which a simulation replaces as a whole.
const EDGES: [&str; 4] = ["src/work/http", "src/work/exec", "src/deliver/http", "src/deliver/tcp"];
const NOT_CLI: &[&str] = &[
    "record",
    "metrics",
    "log",
    "topics",
    "order",
    "takeover",
    "observe",
    "audit",
    "ingress",
    "work",
    "resequence",
    "deliver",
    "process",
];

pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "layers",
        check: layers,
        broken_by: ("src/order/a.rs", || "use crate::log::Log;".to_owned()),
        kept_by: ("src/resequence/a.rs", "use crate::order::Lane;\nuse crate::resequence::b;"),
    },
    Rule {
        name: "a pure core",
        check: pure_core,
        broken_by: ("src/order/a.rs", || "use tokio::time::Instant;".to_owned()),
        kept_by: ("src/order/a.rs", "use bytes::Bytes; use std::time::Duration;"),
    },
    Rule {
        name: "banned",
        check: banned,
        broken_by: ("src/work/a.rs", || "let a = b.unwrap();".to_owned()),
        kept_by: ("src/work/a.rs", "b.unwrap_or(1);\n#[cfg(test)]\nmod tests { fn a() { b.unwrap() } }"),
    },
    Rule {
        name: "one file calls C",
        check: unsafe_code,
        broken_by: ("src/work/a.rs", || "unsafe { b() }".to_owned()),
        kept_by: ("src/log/kafka/native/a.rs", "unsafe { b() }"),
    },
    Rule {
        name: "a fixed order of selection",
        check: biased,
        broken_by: ("src/work/a.rs", || "tokio::select! {\n a = b => c }".to_owned()),
        kept_by: ("src/work/a.rs", "tokio::select! {\n biased;\n a = b => c }"),
    },
    Rule {
        name: "nothing left for later",
        check: nothing_left,
        broken_by: ("src/work/a.rs", || concat!("// TO", "DO: all of it").to_owned()),
        kept_by: ("src/work/a.rs", "// done"),
    },
    Rule {
        name: "no mod.rs",
        check: |s| if s.path.ends_with("/mod.rs") { vec![s.finding(0, "call it by its name")] } else { vec![] },
        broken_by: ("src/work/mod.rs", || "".to_owned()),
        kept_by: ("src/work.rs", ""),
    },
    Rule {
        name: "short lines",
        check: short_lines,
        broken_by: ("src/work.rs", || "x".repeat(LINE_MAX + 1)),
        kept_by: ("src/work.rs", "// short"),
    },
    Rule {
        name: "short functions",
        check: short_functions,
        broken_by: ("src/work.rs", || format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FILE_MAX))),
        kept_by: ("src/work.rs", "trait A { fn a(); }\nfn b() { { } }\n"),
    },
    Rule {
        name: "short files",
        check: short_files,
        broken_by: ("src/work.rs", || format!("fn a() {{\n{}}}\n", "    b();\n".repeat(FILE_MAX))),
        kept_by: ("src/work.rs", "// a comment\n\nfn a() {}\n"),
    },
];

fn layers(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return vec![] };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        return vec![source.finding(0, &format!("say in tests/tidy/rules.rs what {module} may use"))];
    };
    if allowed.contains(&"*") {
        return vec![];
    }
    let mut findings = Vec::new();
    for at in source.uses("crate::") {
        let path = &source.code[at + "crate::".len()..];
        let other = path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        let is_module = LAYERS.iter().any(|(name, _)| *name == other);
        if is_module && other != module && !allowed.contains(&other) {
            findings.push(source.finding(at, &format!("{module} may not use {other}")));
        }
    }
    findings
}

fn pure_core(source: &Source) -> Vec<String> {
    if source.module() != Some("order") {
        return vec![];
    }
    let manifest = include_str!("../../Cargo.toml");
    let (_, dependencies) = manifest.split_once("[dependencies]").expect("there are dependencies");
    let (dependencies, _) = dependencies.split_once("[dev-dependencies]").expect("those for tests follow");
    let names = dependencies.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name.replace('-', "_"));
    let mut findings = Vec::new();
    for name in names.filter(|name| !OF_ORDER.contains(&name.as_str())) {
        let path = format!("{name}::");
        // `crate::log::` is none of the crate log.
        let foreign = source.uses(&path).filter(|at| !source.code[..*at].ends_with("::"));
        findings.extend(foreign.map(|at| source.finding(at, &format!("the core is pure and may not use {name}"))));
    }
    findings
}

fn banned(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return vec![] };
    let is_edge = EDGES.iter().any(|edge| source.path.starts_with(edge));
    let here = |modules: &[&str]| match modules {
        ["*"] => true,
        modules if modules == SIMULATED && is_edge => false,
        modules => modules.contains(&module),
    };
    let banned = BANNED.iter().filter(|(_, modules, _)| here(modules));
    banned
        .flat_map(|(word, _, reason)| {
            source.uses(word).map(move |at| source.finding(at, &format!("{word} is not to be used: {reason}")))
        })
        .collect()
}

fn unsafe_code(source: &Source) -> Vec<String> {
    let inside = source.path.strip_prefix(CALLS_C).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'));
    if inside {
        return vec![];
    }
    let found = ["unsafe", "allow(unsafe_code"].into_iter().flat_map(|word| source.uses(word));
    found.map(|at| source.finding(at, &format!("what is unsafe is in {CALLS_C} only"))).collect()
}

fn biased(source: &Source) -> Vec<String> {
    if !source.module().is_some_and(|module| SIMULATED.contains(&module)) {
        return vec![];
    }
    let open = source.uses("select! {").filter(|at| {
        let inside = source.code[at + "select! {".len()..].trim_start();
        !inside.starts_with("biased;")
    });
    open.map(|at| source.finding(at, "write biased; first: a random choice cannot be replayed")).collect()
}

fn nothing_left(source: &Source) -> Vec<String> {
    // In two parts, so that this file keeps the rule.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];
    let found = words.iter().filter_map(|word| source.text.find(word).map(|at| (word, at)));
    found.map(|(word, at)| source.finding(at, &format!("{word}: do it now, or say what is so and why"))).collect()
}

fn short_lines(source: &Source) -> Vec<String> {
    // A sentence in a literal is better whole; around it, only the code counts.
    let width = |(text, code): (&str, &str)| match code.split_whitespace().collect::<Vec<_>>().join(" ") {
        code if code.is_empty() => text.chars().count(),
        code => code.chars().count(),
    };
    let widths = source.text.lines().zip(source.code.lines()).map(width);
    let long = widths.enumerate().filter(|(_, width)| *width > LINE_MAX);
    long.map(|(number, _)| format!("{}:{}: longer than {LINE_MAX}", source.path, number + 1)).collect()
}

fn short_files(source: &Source) -> Vec<String> {
    let lines = source.product().lines().filter(|line| !line.trim().is_empty()).count();
    if lines <= FILE_MAX {
        return vec![];
    }
    vec![format!("{}: {lines} lines of code, {FILE_MAX} at most: split what it holds, not only the file", source.path)]
}

fn short_functions(source: &Source) -> Vec<String> {
    let code = source.code.as_str();
    let mut findings = Vec::new();
    let keyword = code.match_indices("fn ").map(|(at, _)| at);
    for at in keyword.filter(|at| code[..*at].chars().next_back().is_none_or(|c| c == ' ' || c == '\n' || c == '(')) {
        let lines = body(&code[at..]).lines().filter(|line| !line.trim().is_empty()).count();
        if lines > FUNCTION_MAX {
            findings.push(source.finding(at, &format!("{lines} lines, {FUNCTION_MAX} at most")));
        }
    }
    findings
}

/// A function from its name to its closing brace; nothing where it has no body.
fn body(code: &str) -> &str {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            ';' if depth == 0 => return "",
            '{' => depth += 1,
            '}' if depth == 1 => return &code[..=at],
            '}' => depth -= 1,
            _ => {}
        }
    }
    ""
}
