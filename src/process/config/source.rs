//! Where values come from: the file, and the variables over it; and the way back from a key to
//! its place, for errors.
//!
//! `SERIATIM_WORK__CONCURRENCY` is the key `concurrency` of section `work`. A value that reads as
//! TOML (a number, `true`, a quoted string, a `[list]`, a `{ table }`) is that; any other is text.
//! Shells cannot export names with dots in them, so properties of librdkafka may have underscores there.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::error::{Error, Problem, reason};

const PREFIX: &str = "SERIATIM_";

/// Variables of the command line, which are no configuration.
const OF_THE_COMMAND_LINE: [&str; 4] = ["SERIATIM_CONFIG", "SERIATIM_URL", "SERIATIM_ADMIN_URL", "SERIATIM_TOKEN_FILE"];

/// Properties of librdkafka whose names have underscores, and can be given as a text.
const WITH_UNDERSCORES: [&str; 2] = ["enabled_events", "log_level"];

/// The file's name and text; both empty where there is none to read.
pub(super) fn read(file: Option<&Path>) -> Result<(String, String), Problem> {
    let path = match file {
        Some(path) => path,
        None if Path::new(super::DEFAULT_FILE).exists() => Path::new(super::DEFAULT_FILE),
        None => return Ok((String::new(), String::new())),
    };
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Problem { place: name, key: String::new(), reason: format!("cannot be read: {error}") }),
    }
}

/// A variable that sets a key.
struct Variable {
    name: String,
    path: Vec<String>,
    value: Value,
}

/// The file's text and the variables over it.
pub(super) struct Source<'a> {
    name: &'a str,
    text: &'a str,
    variables: Vec<Variable>,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        name: &'a str,
        text: &'a str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problem> {
        let mut variables = Vec::new();
        for (name, value) in env {
            if let Some(path) = key_of(&name)? {
                variables.push(Variable { name, path, value: value_of(value) });
            }
        }
        // A section as a whole goes before its keys, and the result does not depend on the environment's order.
        variables.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { name, text, variables })
    }

    /// The file with the variables over it, as `T`.
    pub(super) fn deserialize<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let mut table: Table = toml::from_str(self.text).map_err(|e| Problem {
            place: e.span().map_or_else(|| self.name.to_owned(), |span| self.place_at(span.start)),
            key: String::new(),
            reason: format!("is no TOML: {}", e.message()),
        })?;
        for variable in &self.variables {
            insert(&mut table, variable)?;
        }
        serde_path_to_error::deserialize(Value::Table(table)).map_err(|e| {
            let path: Vec<String> = e.path().iter().filter_map(segment).collect();
            let (key, reason) = (path.join("."), reason(e.inner().message()));
            Problem { place: self.place(&key), key, reason }.into()
        })
    }

    /// The problems, each with the place of its key.
    pub(super) fn located(&self, problems: Vec<Problem>) -> Error {
        let located = problems.into_iter().map(|problem| Problem { place: self.place(&problem.key), ..problem });
        Error { problems: located.collect() }
    }

    /// The variable that sets the key or what it is in, else its place in the file or that of the
    /// nearest section that the file has.
    fn place(&self, key: &str) -> String {
        if let Some(variable) = self.variables.iter().rev().find(|v| below(key, &v.path.join(".")).is_some()) {
            return variable.name.clone();
        }
        let Ok(table) = DeTable::parse(self.text) else { return self.name.to_owned() };
        find(table.get_ref(), key).map_or_else(|| self.name.to_owned(), |at| self.place_at(at))
    }

    fn place_at(&self, byte: usize) -> String {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", self.name)
    }
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// What is left of a key below that of a table, nothing for the table's own; `None` where it is not in it. Names of
/// properties have dots in them, so keys are not cut at each.
fn below<'a>(key: &'a str, table: &str) -> Option<&'a str> {
    let rest = key.strip_prefix(table)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('.') }
}

/// The deepest key on the way to this one that the file has, as a byte position.
fn find(table: &DeTable<'_>, of: &str) -> Option<usize> {
    let (key, value, rest) = table.iter().find_map(|(key, value)| Some((key, value, below(of, key.get_ref())?)))?;
    let deeper = match value.get_ref() {
        DeValue::Table(inner) => find(inner, rest),
        _ => None,
    };
    Some(deeper.unwrap_or(key.span().start))
}

/// The key that a variable sets; `None` if it is none of ours.
fn key_of(variable: &str) -> Result<Option<Vec<String>>, Problem> {
    let Some(rest) = variable.strip_prefix(PREFIX) else { return Ok(None) };
    if OF_THE_COMMAND_LINE.contains(&variable) || is_service_link(rest) {
        return Ok(None);
    }
    let mut path: Vec<String> = rest.split("__").map(str::to_lowercase).collect();
    if let [log, kafka, property] = path.as_mut_slice()
        && (log.as_str(), kafka.as_str()) == ("log", "kafka")
        && !WITH_UNDERSCORES.contains(&property.as_str())
    {
        *property = property.replace('_', ".");
    }
    if path.iter().any(|part| part.is_empty() || part.starts_with('_') || part.ends_with('_')) {
        let reason = "is no key: write SERIATIM_SECTION__KEY, with two underscores between the parts";
        return Err(Problem { place: variable.to_owned(), key: String::new(), reason: reason.to_owned() });
    }
    Ok(Some(path))
}

/// Whether it is one of the variables that Kubernetes sets in every container for a service called
/// `seriatim` or `seriatim-...`: refusing those would keep pods from starting for no reason of theirs.
fn is_service_link(rest: &str) -> bool {
    let rest = format!("_{rest}");
    let port = rest.rfind("_PORT").map(|at| &rest[at + "_PORT".len()..]);
    let numbered = |tail: &str| tail.strip_prefix('_').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit()));
    rest.ends_with("_SERVICE_HOST")
        || rest.contains("_SERVICE_PORT")
        || port.is_some_and(|t| t.is_empty() || numbered(t))
}

fn value_of(text: String) -> Value {
    match format!("value = {text}").parse::<Table>() {
        Ok(mut table) if table.len() == 1 => table.remove("value").unwrap_or(Value::String(text)),
        _ => Value::String(text),
    }
}

fn insert(table: &mut Table, variable: &Variable) -> Result<(), Problem> {
    let (last, sections) = variable.path.split_last().expect("splitting a text gives at least one part");
    let mut at = table;
    for section in sections {
        let inner = at.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(inner) = inner else {
            let reason = format!("`{section}` is a {} and has no keys of its own", inner.type_str());
            return Err(Problem { place: variable.name.clone(), key: variable.path.join("."), reason });
        };
        at = inner;
    }
    at.insert(last.clone(), variable.value.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_keys() {
        let key = |name| key_of(name).map(|path| path.map(|p| p.join(".")));
        assert_eq!(key("SERIATIM_NAME"), Ok(Some("name".to_owned())));
        assert_eq!(key("SERIATIM_LOG__MAX_DISK"), Ok(Some("log.max_disk".to_owned())));
        assert_eq!(key("SERIATIM_WORK__HTTP__URL"), Ok(Some("work.http.url".to_owned())));
        assert_eq!(key("SERIATIM_LOG__KAFKA__SASL.PASSWORD"), Ok(Some("log.kafka.sasl.password".to_owned())));
        assert_eq!(key("SERIATIM_LOG__KAFKA__SASL_PASSWORD"), Ok(Some("log.kafka.sasl.password".to_owned())));
        assert_eq!(key("SERIATIM_LOG__KAFKA__LOG_LEVEL"), Ok(Some("log.kafka.log_level".to_owned())));
        assert_eq!(key("PATH"), Ok(None));
        assert_eq!(key("SERIATIM_CONFIG"), Ok(None));
        for bad in ["SERIATIM_", "SERIATIM___NAME", "SERIATIM_LOG__", "SERIATIM_LOG___RETENTION"] {
            assert!(key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_variables_of_kubernetes_services_are_not_ours() {
        for link in [
            "SERIATIM_SERVICE_HOST",
            "SERIATIM_SERVICE_PORT",
            "SERIATIM_SERVICE_PORT_HTTP",
            "SERIATIM_PORT",
            "SERIATIM_PORT_8080_TCP_ADDR",
            "SERIATIM_ADMIN_SERVICE_HOST",
            "SERIATIM_ADMIN_PORT_8090_TCP",
        ] {
            assert_eq!(key_of(link), Ok(None), "{link}");
        }
        assert!(key_of("SERIATIM_WORK_CONCURRENCY").is_ok_and(|key| key.is_some()), "a typo is to be refused");
    }

    #[test]
    fn values_are_toml_or_text() {
        assert_eq!(value_of("8".to_owned()), Value::Integer(8));
        assert_eq!(value_of("\"8\"".to_owned()), Value::String("8".to_owned()));
        assert_eq!(value_of("127.0.0.1:8080".to_owned()), Value::String("127.0.0.1:8080".to_owned()));
        assert_eq!(value_of(".total = .price".to_owned()), Value::String(".total = .price".to_owned()));
        assert_eq!(value_of("1\nother = 2".to_owned()), Value::String("1\nother = 2".to_owned()));
        assert!(value_of("['a', 'b']".to_owned()).is_array());
        assert!(value_of("{ sleep = '1s' }".to_owned()).is_table());
    }
}
