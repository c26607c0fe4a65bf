//! Layering and style, held by a test: what may use what, how long things may be, what is not to
//! be used and why. Each rule comes with a piece of code that breaks it, so that it can fail.

#[path = "tidy/faults.rs"]
mod faults;
#[path = "tidy/image.rs"]
mod image;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::RULES;
use source::Source;

#[test]
fn the_sources_keep_every_rule() {
    let sources = source::all();
    assert!(sources.len() > 50, "the sources were not found");
    let findings: Vec<String> = RULES.iter().flat_map(|rule| sources.iter().flat_map(|s| (rule.check)(s))).collect();
    assert!(findings.is_empty(), "\n{}", findings.join("\n"));
}

#[test]
fn every_file_belongs_to_a_module() {
    let sources = source::all();
    let orphans: Vec<&str> = sources.iter().filter(|s| !is_declared(s, &sources)).map(|s| s.path.as_str()).collect();
    assert!(orphans.is_empty(), "nothing says `mod` for {}: declare or remove them", orphans.join(", "));
    let orphan = Source::new("src/order/orphan.rs", "");
    assert!(!is_declared(&orphan, &sources), "an orphan would not be found");
}

fn is_declared(file: &Source, among: &[Source]) -> bool {
    let Some((folder, name)) = file.path.strip_suffix(".rs").and_then(|path| path.rsplit_once('/')) else {
        return false;
    };
    if folder != "src" && !folder.starts_with("src/") || ["lib", "main"].contains(&name) {
        return true;
    }
    let parents = if folder == "src" { vec!["src/lib.rs".to_owned()] } else { vec![format!("{folder}.rs")] };
    let declared = |s: &Source| s.code.lines().any(|line| line.trim_end().ends_with(&format!("mod {name};")));
    among.iter().any(|s| parents.contains(&s.path) && declared(s))
}

#[test]
fn every_rule_can_fail_and_can_pass() {
    for rule in RULES {
        let check = |path: &str, text: &str| (rule.check)(&Source::new(path, text));
        let (path, broken) = (rule.broken_by.0, (rule.broken_by.1)());
        assert!(!check(path, &broken).is_empty(), "{} does not see {broken}", rule.name);
        assert_eq!(check(rule.kept_by.0, rule.kept_by.1), Vec::<String>::new(), "{} complains", rule.name);
    }
}

#[test]
fn long_files_and_functions_are_found() {
    let lines = |count: usize| "    let a = 1;\n".repeat(count);
    let function = |count: usize| format!("fn a() {{\n{}}}\n", lines(count));
    let rule = |name: &str| RULES.iter().find(|rule| rule.name == name).expect("there is such a rule").check;
    let check = |name: &str, text: &str| rule(name)(&Source::new("src/work/a.rs", text)).len();
    assert_eq!((check("short functions", &function(68)), check("short functions", &function(69))), (0, 1));
    assert_eq!((check("short files", &lines(400)), check("short files", &lines(401))), (0, 1));
    let tested = format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", lines(400), lines(9));
    assert_eq!(check("short files", &tested), 0, "tests do not count");
}
