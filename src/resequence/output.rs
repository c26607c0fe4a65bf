//! From a result to the outputs that it means. What workers answer is untrusted: one invalid
//! output fails the whole result.

use crate::record::outputs::{self, OUTPUTS, OutputJson};
use crate::record::{HeaderWriter, Name, RecordRef, ResultHeaders, error_json};

use super::destinations::{Destinations, Mask, numbers};
use crate::topics::BESIDE_THE_BODY;

/// The most that an output has beside its body, in bytes: its key, or else the message's, and headers. A message that
/// came in over HTTP has at most 64 KiB of that, a result headers of as much; each is met with room to spare.
const MOST_BESIDE: usize = 192 * 1024;

/// What a release adds to that: where the output comes from, and the framing of a record.
const PROVENANCE: u64 = 1024;

// What is let through here fits into the destination's topic.
const _: () = assert!(MOST_BESIDE as u64 + PROVENANCE <= BESIDE_THE_BODY);

/// Names and lengths of one header, beside what the worker chose, in bytes, at most.
const HEADER_FRAMING: usize = 16;

/// The outputs of one result, in order.
#[derive(Debug)]
pub(super) enum Outputs<'a> {
    /// The result's own value, to each of these destinations.
    Same { value: &'a [u8], destinations: Mask },
    /// Several, each with its own value.
    Several(Vec<Output>),
}

/// One of several outputs.
#[derive(Debug)]
pub(super) struct Output {
    destinations: Mask,
    key: Option<String>,
    headers: Vec<(String, String)>,
    content_type: Option<String>,
    value: Vec<u8>,
}

/// What an output record is written from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written<'a> {
    /// Its index among the outputs of its source, over all destinations.
    pub(super) index: u32,
    /// The destination's number.
    pub(super) destination: usize,
    /// The key; `None` leaves it to the message.
    pub(super) key: Option<&'a [u8]>,
    /// The body.
    pub(super) value: &'a [u8],
    output: Option<&'a Output>,
}

/// What decides whether an output is valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'a> {
    pub(super) destinations: &'a Destinations,
    /// Where outputs go that name no destination.
    pub(super) default: Mask,
    /// The only ones that may be named, where the order is by destination.
    pub(super) allowed: Option<Mask>,
    /// The largest body of an output in bytes.
    pub(super) max_output: usize,
    /// The size in bytes of the message's key, which outputs have that name none.
    pub(super) key: usize,
}

impl<'a> Outputs<'a> {
    /// What a `done` result means; the error is that of a failed result, as JSON.
    pub(super) fn of(record: &RecordRef<'a>, headers: &ResultHeaders<'a>, rules: Rules<'_>) -> Result<Self, String> {
        let value = record.value.unwrap_or_default();
        if headers.content_type == Some(OUTPUTS.as_bytes()) {
            return Self::several(value, rules).map(Self::Several).map_err(|e| error_json("bad-outputs", e));
        }
        let destinations = match headers.destinations {
            Some(named) => rules.named(named).map_err(|e| error_json("unknown-destination", e))?,
            None => rules.unnamed().map_err(|e| error_json("unknown-destination", e))?,
        };
        let beside = rules.key + record.headers.size();
        fits(value.len(), beside, rules.max_output).map_err(|e| error_json("output-too-large", e))?;
        Ok(Self::Same { value, destinations })
    }

    /// The outputs of a record that leaves as it is.
    pub(super) fn unworked(record: &RecordRef<'a>, rules: Rules<'_>) -> Result<Self, String> {
        let (value, beside) = (record.value.unwrap_or_default(), rules.key + record.headers.size());
        fits(value.len(), beside, rules.max_output).map_err(|e| error_json("output-too-large", e))?;
        Ok(Self::Same { value, destinations: rules.default })
    }

    fn several(value: &[u8], rules: Rules<'_>) -> Result<Vec<Output>, String> {
        let list = outputs::check(value).map_err(|e| e.to_string())?;
        let one = |(index, json)| rules.output(json).map_err(|e| format!("output {index}: {e}"));
        list.into_iter().enumerate().map(one).collect()
    }

    /// Every output record, in the order of its index.
    pub(super) fn each(&self, mut write: impl FnMut(Written<'_>)) {
        let mut index = 0;
        let mut each = |destinations, key, value, output| {
            for destination in numbers(destinations) {
                write(Written { index, destination, key, value, output });
                index += 1;
            }
        };
        match self {
            Self::Same { value, destinations } => each(*destinations, None, value, None),
            Self::Several(outputs) => {
                for output in outputs {
                    each(output.destinations, output.key.as_deref().map(str::as_bytes), &output.value, Some(output));
                }
            }
        }
    }
}

impl Rules<'_> {
    fn named(&self, header: &[u8]) -> Result<Mask, String> {
        let mask = self.destinations.mask(Some(header)).map_err(|e| e.to_string())?;
        match self.allowed {
            Some(allowed) if mask & !allowed != 0 => {
                Err("the order is by destination: only those that the message names may be used".to_owned())
            }
            _ => Ok(mask),
        }
    }

    /// Where an output goes that names no destination: nowhere, if the message named one that is unknown.
    fn unnamed(&self) -> Result<Mask, String> {
        if self.default == 0 {
            Err("the message names a destination that there is not".to_owned())
        } else {
            Ok(self.default)
        }
    }

    fn output(&self, json: OutputJson) -> Result<Output, String> {
        let destinations = match &json.destination {
            Some(named) => self.named(named.as_bytes())?,
            None => self.unnamed()?,
        };
        let (value, content_type) = (json.value(), json.media_type().map(str::to_owned));
        let OutputJson { key, headers, .. } = json;
        let headers: Vec<_> = headers.into_iter().collect();
        let named: usize = headers.iter().map(|(name, value)| HEADER_FRAMING + name.len() + value.len()).sum();
        let typed = content_type.as_ref().map_or(0, |media| HEADER_FRAMING + media.len());
        fits(value.len(), key.as_ref().map_or(self.key, String::len) + named + typed, self.max_output)?;
        Ok(Output { destinations, key, headers, content_type, value })
    }
}

/// What is in the way of an output with a body and a key and headers of these sizes.
fn fits(body: usize, beside: usize, max_output: usize) -> Result<(), String> {
    if body > max_output {
        return Err(format!("the body has {body} bytes, the limit is {max_output} (ingress.max_body)"));
    }
    if beside > MOST_BESIDE {
        return Err(format!("key and headers have {beside} bytes, the limit is {MOST_BESIDE}"));
    }
    Ok(())
}

impl Written<'_> {
    /// Writes the headers that come from the worker: those of the output, or all of the result
    /// that are not Seriatim's own.
    pub(super) fn headers(&self, result: &RecordRef<'_>, to: &mut HeaderWriter<'_>) {
        if let Some(output) = self.output {
            if let Some(media) = &output.content_type {
                to.put(Name::ContentType, media.as_bytes());
            }
            for (name, value) in &output.headers {
                to.put_named(name.as_bytes(), value.as_bytes());
            }
            return;
        }
        for (name, value) in result.headers.iter() {
            if !name.starts_with(b"seriatim-") {
                to.put_named(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Topic;
    use crate::record::{BatchBuilder, Offset, Partition, Source, Status};

    fn several(json: &str, allowed: Option<Mask>) -> Result<Vec<(usize, Option<String>, String)>, String> {
        let map = ["a", "default"].map(|n| (n.to_owned(), Topic::from(n))).into();
        let destinations = Destinations::new(&map);
        let rules = Rules { destinations: &destinations, default: 2, allowed, max_output: 20, key: 0 };
        let outputs = Outputs::Several(Outputs::several(json.as_bytes(), rules)?);
        let mut seen = Vec::new();
        outputs.each(|w| {
            assert_eq!(w.index as usize, seen.len());
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            seen.push((w.destination, w.key.map(text), text(w.value)));
        });
        Ok(seen)
    }

    #[test]
    fn several_outputs_keep_their_order_and_their_bytes() {
        let json =
            r#"[{"body":{"b": 1, "a":2}},{"destination":"a, default","key":"k","body":"text"},{"bodyBase64":"/w=="}]"#;
        let k = Some("k".to_owned());
        let expected = [(1, None, r#"{"b": 1, "a":2}"#), (0, k.clone(), "text"), (1, k, "text"), (1, None, "\u{fffd}")];
        assert_eq!(several(json, None), Ok(expected.map(|(d, k, v)| (d, k, v.to_owned())).to_vec()));
        assert_eq!(several("[]", None), Ok(vec![]));
    }

    /// What becomes of a result with a body, and a header `x` beside those of every result, of these sizes.
    fn same(body: usize, header: usize, key: usize) -> Result<usize, String> {
        let destinations = Destinations::new(&[("default".to_owned(), Topic::from("default"))].into());
        let mut builder = BatchBuilder::default();
        builder.push(Some(b"0"), Some(&vec![b'x'; body]), |h| h.put_named(b"x", &vec![b'x'; header]));
        let batch = builder.finish();
        let record = batch.first().expect("it was pushed");
        let source = Source { lane: Partition(0), offset: Offset(0) };
        let headers = ResultHeaders::new(source, 0, Status::Done);
        let rules = Rules { destinations: &destinations, default: 1, allowed: None, max_output: 20, key };
        let mut bytes = 0;
        Outputs::of(&record, &headers, rules)?.each(|output| bytes += output.value.len());
        Ok(bytes)
    }

    #[test]
    fn a_body_is_limited_by_itself_and_what_is_beside_it_by_another_bound() {
        assert_eq!(same(20, 64 * 1024, 64 * 1024), Ok(20));
        assert!(same(21, 0, 0).is_err_and(|e| e.contains("the body has 21 bytes, the limit is 20 (ingress.max_body)")));
        assert!(same(1, 1, MOST_BESIDE).is_err_and(|e| e.contains("key and headers have")));
        assert!(same(1, MOST_BESIDE, 0).is_err_and(|e| e.contains("the limit is 196608")));
        let header =
            |size: usize| format!(r#"[{{"body":"01234567890123456789","headers":{{"x":"{}"}}}}]"#, "y".repeat(size));
        assert_eq!(several(&header(64 * 1024), None).map(|outputs| outputs.len()), Ok(1));
        assert!(several(&header(MOST_BESIDE), None).is_err_and(|e| e.contains("key and headers have")));
    }

    #[test]
    fn one_invalid_output_fails_the_whole_result() {
        for (json, word) in [
            ("{}", "array"),
            (r#"[{"body":1},{"destination":"nowhere","body":1}]"#, "output 1: there is no destination `nowhere`"),
            (r#"[{"destination":"a","body":1}]"#, "only those that the message names"),
            (r#"[{"body":1,"bodyBase64":""}]"#, "both"),
            (r#"[{"bodyBase64":"%"}]"#, "bodyBase64"),
            (r#"[{"extra":1}]"#, "extra"),
            (r#"[{"body":1,"headers":{"n":1}}]"#, "headers.n"),
            (r#"[{"body":1,"headers":{"seriatim-source":"0:1"}}]"#, "seriatim-"),
            (r#"[{"body":"012345678901234567890"}]"#, "the limit is 20"),
        ] {
            let error = several(json, Some(2)).expect_err(json);
            assert!(error.contains(word), "{json}: {error}");
        }
    }
}
