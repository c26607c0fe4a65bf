//! Types of single values, each of which can only hold what makes sense.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest name of a topic that Kafka takes.
const TOPIC_NAME_MAX: usize = 249;
/// Leaves room for what is put behind a pipeline's or a destination's name in the name of a topic.
const NAME_MAX: usize = 100;

/// A type that is a text of a certain form: parsed on the way in, the same text on the way out.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $parse:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(&str) -> Result<(), String> = $parse;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text! {
    /// A pipeline's name: letters, digits, `.`, `_` and `-`, starting with a letter or digit, at most 100.
    Name, |text| name(text, NAME_MAX)
}

text! {
    /// A destination's name, of the same form as a pipeline's.
    DestinationName, |text| name(text, NAME_MAX)
}

text! {
    /// A topic's full name: letters, digits, `.`, `_` and `-`, at most 249, as Kafka has it.
    TopicName, |text| name(text, TOPIC_NAME_MAX)
}

text! {
    /// A place to listen at, `HOST:PORT`; port 0 takes any free one.
    Address, address
}

text! {
    /// An absolute URL of scheme `http` or `https`.
    HttpUrl, http_url
}

impl Default for Name {
    fn default() -> Self {
        Self("seriatim".to_owned())
    }
}

impl Default for DestinationName {
    fn default() -> Self {
        Self(super::DEFAULT_DESTINATION.to_owned())
    }
}

impl Address {
    /// A port of this machine that others cannot reach.
    pub(super) fn loopback(port: u16) -> Self {
        Self(format!("127.0.0.1:{port}"))
    }

    /// Whether only this machine can reach it, as far as the text says.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.parse::<std::net::SocketAddr>() {
            Ok(address) => address.ip().is_loopback(),
            Err(_) => self.0.starts_with("localhost:"),
        }
    }
}

impl HttpUrl {
    /// The same without user name and password.
    #[must_use]
    pub fn hidden(&self) -> Self {
        match self.0.split_once("://") {
            Some((scheme, rest)) => match rest.split_once('@') {
                Some((user, host)) if !user.contains('/') => Self(format!("{scheme}://***@{host}")),
                _ => self.clone(),
            },
            None => self.clone(),
        }
    }
}

fn name(text: &str, max: usize) -> Result<(), String> {
    let fits = !text.is_empty() && text.len() <= max;
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if fits && starts && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Ok(());
    }
    Err(format!("\"{text}\" is no name: 1 to {max} letters, digits, `.`, `_` or `-`, starting with a letter or digit"))
}

fn address(text: &str) -> Result<(), String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(()),
        _ => Err(format!("\"{text}\" is no address: write HOST:PORT, as in \"127.0.0.1:8080\" or \"0.0.0.0:8080\"")),
    }
}

fn http_url(text: &str) -> Result<(), String> {
    let shown = HttpUrl(text.to_owned()).hidden();
    let url = reqwest::Url::parse(text).map_err(|e| format!("\"{shown}\" is no URL: {e}"))?;
    if matches!(url.scheme(), "http" | "https") {
        return Ok(());
    }
    Err(format!("\"{shown}\" is of scheme {}: write http:// or https://", url.scheme()))
}

/// A length of time above zero, written with units: `750ms`, `10m`, `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(Duration);

impl Span {
    pub(super) const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(super) const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// As the standard library has it.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match humantime::parse_duration(&text) {
            Ok(duration) if duration.is_zero() => Err(format!("\"{text}\" is nothing: it has to be above zero")),
            Ok(duration) => Ok(Self(duration)),
            Err(_) => {
                Err(format!("\"{text}\" is no duration: write a number with its unit, as in \"750ms\" or \"10m\""))
            }
        }
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A number of bytes above zero, written with a unit: `64KiB`, `1MiB`, `10GB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

impl Size {
    pub(super) const fn mebibytes(count: u64) -> Self {
        Self(count << 20)
    }

    /// In bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In bytes, for what is held in memory; what no memory can hold is no limit.
    #[must_use]
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() == 0 => Err(format!("\"{text}\" is nothing: it has to be above zero")),
            Ok(size) => Ok(Self(size.as_u64())),
            Err(_) => Err(format!("\"{text}\" is no size: write a number with its unit, as in \"64KiB\" or \"1MiB\"")),
        }
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl fmt::Display for Size {
    /// In the largest unit that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
        match units.iter().find(|(bits, _)| self.0.trailing_zeros() >= *bits) {
            Some((bits, unit)) => write!(f, "{}{unit}", self.0 >> bits),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Debug for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_kafka_takes() {
        for good in ["orders", "a", "Orders.eu-1_b", "1st"] {
            assert!(Name::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-a", "a b", "a/b", "ü", "a,b", &"x".repeat(NAME_MAX + 1)] {
            assert!(Name::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["127.0.0.1:8080", "localhost:0", "[::1]:80", "0.0.0.0:65535"] {
            assert!(Address::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["8080", ":8080", "localhost", "localhost:http", "127.0.0.1:65536"] {
            assert!(Address::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        let loopback = |text: &str| Address(text.to_owned()).is_loopback();
        assert!(loopback("127.0.0.1:1") && loopback("[::1]:1") && loopback("localhost:1"));
        assert!(!loopback("0.0.0.0:1") && !loopback("example.org:1"));
    }

    #[test]
    fn sizes_lose_nothing_on_the_way_out() {
        for (text, bytes, shown) in [
            ("1MiB", 1 << 20, "1MiB"),
            ("1.5 GiB", 3 << 29, "1536MiB"),
            ("10GB", 10_000_000_000, "9765625KiB"),
            ("1234567", 1_234_567, "1234567B"),
        ] {
            let size = Size::try_from(text.to_owned()).expect(text);
            assert_eq!((size.get(), size.to_string().as_str()), (bytes, shown));
            assert_eq!(Size::try_from(size.to_string()), Ok(size));
        }
        for bad in ["0", "", "MiB", "-1MiB", "1 apple"] {
            assert!(Size::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_round_trip_and_are_above_zero() {
        for text in ["750ms", "25s", "10m", "7d", "1h 30m"] {
            let span = Span::try_from(text.to_owned()).expect(text);
            assert_eq!(Span::try_from(span.to_string()), Ok(span));
        }
        for bad in ["0s", "5", "", "s", "-1s"] {
            assert!(Span::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_in_urls_are_hidden() {
        let shown = |text: &str| HttpUrl(text.to_owned()).hidden().0;
        assert_eq!(shown("https://me:secret@host/a?b"), "https://***@host/a?b");
        assert_eq!(shown("https://host/a@b"), "https://host/a@b");
        let refused = |text: &str| HttpUrl::try_from(text.to_owned()).expect_err("it is none");
        assert_eq!(refused("ftp://me:secret@host"), "\"ftp://***@host\" is of scheme ftp: write http:// or https://");
        assert!(!refused("http://me:secret@host:port").contains("secret"));
        assert!(HttpUrl::try_from("host/path".to_owned()).is_err());
    }
}
