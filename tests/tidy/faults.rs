//! docs/faults.md, held to the list of faults and to the tests that it names.

use crate::source::Source;

/// Every fault that has to be spoken of, as shown by something or as not covered.
const LISTED: &[u8] = &[
    1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32,
    33, 34, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 51, 60, 61, 62, 63, 64, 65, 70, 71, 74, 80,
];

/// What is wrong with the page: faults that it passes over, things that are not there to show them.
pub(crate) fn findings(page: &str, sources: &[Source]) -> Vec<String> {
    let (shown, gaps) = page.split_once("## Not covered").expect("the page says what is not covered");
    let rows: Vec<&str> = shown.lines().filter(|line| line.starts_with("| F")).collect();
    let id = |number: &u8| format!("F{number:02}");
    let is_told = |id: &str| gaps.contains(id) || rows.iter().any(|row| first_cell(row).contains(id));
    let untold = LISTED.iter().map(id).filter(|id| !is_told(id)).map(|id| format!("{id} is passed over"));
    let absent = rows.iter().flat_map(|row| names(row)).filter(|name| !is_there(name, sources));
    untold.chain(absent.map(|name| format!("there is no {name}"))).collect()
}

fn first_cell(row: &str) -> &str {
    row.split('|').nth(1).unwrap_or_default()
}

/// The tests, files and modules in the last cell of a row.
fn names(row: &str) -> impl Iterator<Item = &str> {
    let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().unwrap_or_default();
    let words = cell.split(|c: char| !c.is_alphanumeric() && !"_/:".contains(c));
    words.filter(|word| is_test(word) || word.contains('/') || word.contains("::"))
}

/// `f20_`, as the tests on real Kafka begin.
fn is_test(word: &str) -> bool {
    let bytes = word.as_bytes();
    bytes.len() > 3 && bytes[0] == b'f' && bytes[1..3].iter().all(u8::is_ascii_digit) && bytes[3] == b'_'
}

fn is_there(name: &str, sources: &[Source]) -> bool {
    if is_test(name) {
        return sources.iter().any(|source| source.code.contains(&format!("fn {name}")));
    }
    let path = if name.contains("::") { format!("src/{}", name.replace("::", "/")) } else { name.to_owned() };
    let (file, folder) = (format!("{path}.rs"), format!("{path}/"));
    sources.iter().any(|source| source.path == file || source.path.starts_with(&folder))
}

#[test]
fn every_fault_is_covered_or_said_not_to_be() {
    let page = include_str!("../../docs/faults.md");
    let sources = crate::source::all();
    assert_eq!(findings(page, &sources), Vec::<String>::new());
    let without = |what: &str| findings(&page.replace(what, ""), &sources);
    assert_eq!(without("F47"), ["F47 is passed over"]);
    assert_eq!(without("| F22 "), ["F22 is passed over"]);
    let renamed = findings(&page.replace("f62_*", "f62_gone_*, `log::gone`, `tests/gone`"), &sources);
    assert_eq!(renamed, ["there is no f62_gone_", "there is no log::gone", "there is no tests/gone"]);
}
