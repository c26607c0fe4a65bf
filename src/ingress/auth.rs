//! Who sends: bearer tokens from a file, compared without a trace in time.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::{Code, Problem};

/// Who sent a message: whom a bearer token or a client's certificate names, `anonymous` where
/// neither is asked for. Scopes idempotency keys. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal(pub(super) Arc<str>);

impl Principal {
    /// The sender where no tokens are configured.
    #[must_use]
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    /// A principal of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A line of a tokens file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// Not of the form `token principal`.
    #[error("line {0}: write one token and one principal, separated by a blank")]
    Line(usize),
    /// A token that stands there twice.
    #[error("line {0}: this token stands in an earlier line too")]
    Repeated(usize),
    /// No token at all, so that nobody could send.
    #[error("the file holds no token")]
    Empty,
}

/// The tokens that may send. Only their hashes are kept.
#[derive(Clone)]
pub struct Tokens(Vec<([u8; 32], Principal)>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(_, principal)| principal)).finish()
    }
}

impl Tokens {
    /// Reads lines `token principal`; blank lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    ///
    /// [`TokensError`] with the line.
    pub fn parse(text: &str) -> Result<Self, TokensError> {
        let mut tokens: Vec<([u8; 32], Principal)> = Vec::new();
        let lines = (1..).zip(text.lines().map(str::trim));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(token), Some(principal), None) = (words.next(), words.next(), words.next()) else {
                return Err(TokensError::Line(number));
            };
            let hash = digest(token.as_bytes());
            if tokens.iter().any(|(known, _)| *known == hash) {
                return Err(TokensError::Repeated(number));
            }
            tokens.push((hash, Principal(principal.into())));
        }
        if tokens.is_empty() { Err(TokensError::Empty) } else { Ok(Self(tokens)) }
    }

    /// The principal of a token. Looks at every token, whichever matches.
    fn principal(&self, token: &[u8]) -> Option<Principal> {
        let hash = digest(token);
        let mut found = None;
        for (known, principal) in &self.0 {
            if bool::from(known.ct_eq(&hash)) {
                found = Some(principal);
            }
        }
        found.cloned()
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Who sends this request: whom its token names, else whom the connection's certificate names.
///
/// # Errors
///
/// [`Code::Unauthorized`] where tokens are configured and the request has another one, or has
/// none and no certificate either.
pub(super) fn authenticate(
    tokens: Option<&Tokens>,
    certified: Option<&Principal>,
    headers: &HeaderMap,
) -> Result<Principal, Problem> {
    let tokens = match (tokens, certified) {
        (None, certified) => return Ok(certified.cloned().unwrap_or_else(Principal::anonymous)),
        (Some(_), Some(certified)) if !headers.contains_key(header::AUTHORIZATION) => return Ok(certified.clone()),
        (Some(tokens), _) => tokens,
    };
    let value = headers.get(header::AUTHORIZATION).map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
    let (scheme, token) = value.split_at_checked(7).unwrap_or_default();
    if !scheme.eq_ignore_ascii_case(b"bearer ") {
        return Err(Problem::new(Code::Unauthorized, "send `Authorization: Bearer TOKEN`"));
    }
    tokens
        .principal(token.trim_ascii())
        .ok_or_else(|| Problem::new(Code::Unauthorized, "the bearer token is not one of the configured ones"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("it is a header value"))])
    }

    #[test]
    fn tokens_name_principals_and_everything_else_is_refused() {
        let tokens = Tokens::parse("# ours\nsecret alice\n\n  other bob\n").expect("it is well formed");
        let who = |headers: &HeaderMap| authenticate(Some(&tokens), None, headers).map(|p| p.as_str().to_owned()).ok();
        assert_eq!(who(&bearer("Bearer secret")).as_deref(), Some("alice"));
        assert_eq!(who(&bearer("bearer other")).as_deref(), Some("bob"));
        for bad in ["Bearer secre", "Bearer ", "Bearer", "Basic secret", "secret", ""] {
            assert_eq!(who(&bearer(bad)), None, "{bad}");
        }
        assert_eq!(who(&HeaderMap::new()), None);
        assert_eq!(authenticate(None, None, &HeaderMap::new()).expect("no tokens, no check"), Principal::anonymous());
        assert!(!format!("{tokens:?}").contains("secret"));
    }

    #[test]
    fn a_certificate_counts_where_no_token_is_shown() {
        let tokens = Tokens::parse("secret alice").expect("it is well formed");
        let lab = Principal::named("lab");
        let who =
            |tokens, headers: &HeaderMap| authenticate(tokens, Some(&lab), headers).map(|p| p.as_str().to_owned()).ok();
        assert_eq!(who(None, &HeaderMap::new()).as_deref(), Some("lab"));
        assert_eq!(who(Some(&tokens), &HeaderMap::new()).as_deref(), Some("lab"));
        assert_eq!(who(Some(&tokens), &bearer("Bearer secret")).as_deref(), Some("alice"));
        assert_eq!(who(Some(&tokens), &bearer("Bearer wrong")), None);
    }

    #[test]
    fn a_tokens_file_is_refused_with_its_line() {
        assert_eq!(Tokens::parse("a b\nc\n").unwrap_err(), TokensError::Line(2));
        assert_eq!(Tokens::parse("a b c\n").unwrap_err(), TokensError::Line(1));
        assert_eq!(Tokens::parse("a b\na c\n").unwrap_err(), TokensError::Repeated(2));
        assert_eq!(Tokens::parse("# none\n").unwrap_err(), TokensError::Empty);
    }
}
