//! Compiling a filter, and running it on one body.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use jaq_core::data::JustLut;
use jaq_core::load::{Arena, Error as LoadError, File, Loader, span};
use jaq_core::{Compiler, Ctx, Vars};
use jaq_json::write::{Pp, write};
use jaq_json::{Val, read};
use serde::de::IgnoredAny;

use super::wire::JSON;
use crate::work::processor::{Answer, Failure, Output};

/// A compiled filter.
pub(super) type Filter = jaq_core::Filter<JustLut<Val>>;

/// Deeper JSON is refused: the parser takes a stack frame for each level. jq itself allows 10,000
/// levels in input; nothing real comes near this many.
const MAX_DEPTH: usize = 512;

/// No message becomes more outputs than that.
const MAX_OUTPUTS: usize = 10_000;

/// Compiles a filter; else says what is wrong with it, and at which character.
pub(super) fn compile(code: &str) -> Result<Filter, String> {
    let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
    let functions = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
    let arena = Arena::default();
    let modules = Loader::new(definitions).load(&arena, File { code, path: () }).map_err(|errors| {
        let errors = errors.into_iter().map(|(_, error)| match error {
            LoadError::Io(errors) => errors.into_iter().map(|(at, error)| place(code, at, &error)).next(),
            LoadError::Lex(errors) => errors.into_iter().map(|(what, at)| expected(code, at, what.as_str())).next(),
            LoadError::Parse(errors) => errors.into_iter().map(|(what, at)| expected(code, at, what.as_str())).next(),
        });
        first(errors)
    })?;
    Compiler::default().with_funs(functions).compile(modules).map_err(|errors| {
        let undefined = errors.into_iter().flat_map(|(_, errors)| errors);
        first(undefined.map(|(at, what)| Some(place(code, at, &format!("there is no {} {at:?}", what.as_str())))))
    })
}

fn first(mut errors: impl Iterator<Item = Option<String>>) -> String {
    errors.find_map(|error| error).unwrap_or_else(|| "it is no filter".to_owned())
}

fn expected(code: &str, at: &str, what: &str) -> String {
    place(code, at, &format!("expected {what}"))
}

fn place(code: &str, at: &str, what: &str) -> String {
    let start = span(code, at).start.min(code.len());
    let column = code.get(..start).map_or(start, |before| before.chars().count()) + 1;
    let near: String = code.get(start..).unwrap_or_default().chars().take(20).collect();
    if near.is_empty() { format!("{what} at its end") } else { format!("{what} at character {column}: {near:?}") }
}

/// Runs the filter on one body.
pub(super) fn run(filter: &Filter, body: &[u8], max_output: usize) -> Result<Answer, Failure> {
    let not_json = |reason: String| Failure::fail("not-json", format_args!("the body is not JSON: {reason}"));
    if depth(body) > MAX_DEPTH {
        return Err(not_json(format!("it is nested more than {MAX_DEPTH} levels deep")));
    }
    // The filter's own parser takes more than JSON, comments for instance.
    serde_json::from_slice::<IgnoredAny>(body).map_err(|e| not_json(e.to_string()))?;
    let input = read::parse_single(body).map_err(|e| not_json(e.to_string()))?;
    let context = Ctx::<JustLut<Val>>::new(&filter.lut, Vars::new([]));
    let (mut outputs, mut bytes) = (Vec::new(), 0);
    for value in filter.id.run((context, input)) {
        let value = value.map_err(|exception| match exception.get_err() {
            Ok(error) => Failure::fail("filter-error", error),
            Err(_) => Failure::fail("filter-error", "the filter halted"),
        })?;
        let json = json(&value)?;
        bytes += json.len();
        outputs.push(json);
        if bytes > max_output || outputs.len() > MAX_OUTPUTS {
            let limits = format_args!("the filter gives more than {max_output} bytes or {MAX_OUTPUTS} outputs");
            return Err(Failure::fail("output-too-large", limits));
        }
    }
    Ok(answer(outputs))
}

fn json(value: &Val) -> Result<Vec<u8>, Failure> {
    let mut json = Vec::new();
    write(&mut json, &Pp::default(), 0, value).expect("a vector takes everything");
    // Values that JSON does not know, such as NaN, are written all the same.
    match serde_json::from_slice::<IgnoredAny>(&json) {
        Ok(_) => Ok(json),
        Err(_) => Err(Failure::fail("output-not-json", format_args!("the filter gives {value}, which is no JSON"))),
    }
}

fn answer(mut outputs: Vec<Vec<u8>>) -> Answer {
    match outputs.len() {
        0 => Answer::Empty,
        1 => {
            let body = Bytes::from(outputs.swap_remove(0));
            Answer::One(Output { content_type: Some(Bytes::from_static(JSON)), ..Output::new(body) })
        }
        _ => {
            let each: Vec<_> = outputs.iter().map(|output| element(output)).collect();
            Answer::Several(format!("[{}]", each.join(",")).into())
        }
    }
}

/// An output as an element of the outputs array. As its `body` a string would lose its quotes,
/// and `null` might be taken for no body.
fn element(json: &[u8]) -> String {
    match std::str::from_utf8(json) {
        Ok(text) if !text.starts_with('"') && text != "null" => {
            format!(r#"{{"contentType":"application/json","body":{text}}}"#)
        }
        _ => format!(r#"{{"contentType":"application/json","bodyBase64":"{}"}}"#, BASE64_STANDARD.encode(json)),
    }
}

/// How deeply arrays and objects are nested, at most.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut most, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match (in_string, *byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth += 1;
                most = most.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_on(filter: &str, body: &str) -> Result<Answer, (String, String)> {
        let filter = compile(filter).expect("it compiles");
        run(&filter, body.as_bytes(), 1000).map_err(|failure| (failure.code.into_owned(), failure.detail))
    }

    #[test]
    fn one_value_is_one_output_and_none_is_none() {
        let output = |body: &'static str| {
            Answer::One(Output { content_type: Some(Bytes::from_static(JSON)), ..Output::new(body.into()) })
        };
        let order = r#"{"price":2,"count":3,"name":"x"}"#;
        assert_eq!(
            run_on(".total = .price * .count", order),
            Ok(output(r#"{"price":2,"count":3,"name":"x","total":6}"#))
        );
        assert_eq!(run_on(".name", order), Ok(output(r#""x""#)));
        assert_eq!(run_on("select(.price > 5)", order), Ok(Answer::Empty));
    }

    #[test]
    fn several_values_are_an_array_of_outputs_that_is_valid() {
        let Ok(Answer::Several(json)) = run_on(".[]", r#"[1,"a\"b",{"c":null}]"#) else { panic!("there are three") };
        let outputs = crate::record::outputs::check(&json).expect("it is valid");
        assert_eq!(outputs.len(), 3);
        assert_eq!(outputs[1].body_base64.as_deref(), Some(&*BASE64_STANDARD.encode(r#""a\"b""#)));
    }

    #[test]
    fn bad_bodies_and_filters_that_fail_say_so() {
        for (filter, body, code, says) in [
            (".", "{", "not-json", "EOF"),
            (".", "[1] # jaq would take this", "not-json", "trailing"),
            (".", "", "not-json", "EOF"),
            (".a.b", r#"{"a":1}"#, "filter-error", "index"),
            ("error(\"no stock\")", "1", "filter-error", "no stock"),
            ("halt", "1", "filter-error", "halted"),
            ("nan", "1", "output-not-json", "no JSON"),
            ("range(100000)", "1", "output-too-large", "more than"),
            ("repeat(1)", "1", "output-too-large", "more than"),
        ] {
            let (found, detail) = run_on(filter, body).expect_err(filter);
            assert_eq!(found, code, "{filter} on {body}: {detail}");
            assert!(detail.contains(says), "{filter} on {body}: {detail}");
        }
        let (code, _) = run_on(".", &"[".repeat(1_000_000)).expect_err("too deep");
        assert_eq!(code, "not-json");
        assert!(run_on(".", &format!("{:?}", "[".repeat(900))).is_ok(), "brackets in strings are no nesting");
    }

    #[test]
    fn filters_that_are_none_are_refused_with_the_place() {
        for (filter, says) in [
            (".total = .price *", "at its end"),
            (".a | nonsense(1)", "there is no filter \"nonsense\" at character 6"),
            (". | $x", "there is no variable \"$x\" at character 5"),
            ("[1, 2", "expected"),
            ("\"ä\" | )", "at character 7"),
        ] {
            let error = compile(filter).map(|_| ()).expect_err(filter);
            assert!(error.contains(says), "{filter}: {error}");
        }
    }
}
