//! What is wrong with a configuration, where, and what to do.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file with line and column, or the variable; empty for what follows from defaults.
    pub place: String,
    /// The key with its section, empty for the file as a whole.
    pub key: String,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl Problem {
    /// A problem of a key, its place to be found.
    pub(super) fn at(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: String::new(), key: key.into(), reason: reason.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.place, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.reason)
    }
}

/// A configuration that is refused, with all that was found wrong; a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Rewrites serde's message about an unknown key into ours, with the nearest key there is.
pub(super) fn reason(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field ") else { return message.trim().to_owned() };
    let mut names = rest.split('`').skip(1).step_by(2);
    let found = names.next().unwrap_or_default();
    let known: Vec<&str> = names.collect();
    match known.iter().min_by_key(|name| distance(found, name)) {
        Some(nearest) if distance(found, nearest) <= found.len().div_ceil(3) => {
            format!("there is no such key; did you mean `{nearest}`?")
        }
        Some(_) => format!("there is no such key; there are: {}", known.join(", ")),
        None => "there is no such key".to_owned(),
    }
}

/// How many letters have to be added, removed or changed to make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "abc", 3), ("abc", "abc", 0), ("kitten", "sitting", 3), ("flaw", "lawn", 2)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn unknown_keys_name_the_nearest_or_all() {
        let near = reason("unknown field `windw`, expected one of `by`, `window`, `memory`");
        assert_eq!(near, "there is no such key; did you mean `window`?");
        let far = reason("unknown field `colour`, expected `by` or `window`");
        assert_eq!(far, "there is no such key; there are: by, window");
        assert_eq!(reason("unknown field `x`, there are no fields"), "there is no such key");
        assert_eq!(reason("missing field `url`\n"), "missing field `url`");
    }
}
