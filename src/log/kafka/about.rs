//! Which topic a stored position is about: one that is deleted and made anew under its name is another topic, of
//! which nothing is done. So its id is stored beside the position, as the offset's metadata. Positions without one
//! are those of other clients and of operators' tools, and hold.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::record::TopicId;

/// What such metadata begin with; others are somebody else's.
const OURS: &str = "seriatim-topic=";

/// What is stored beside a position: 37 bytes, of the 4,096 that brokers take. The id is spelled as in Kafka's own
/// tools.
pub(super) fn beside(id: TopicId) -> String {
    format!("{OURS}{}", URL_SAFE_NO_PAD.encode(id.0.to_be_bytes()))
}

/// The topic that a position is about, `None` where that is not said.
pub(super) fn about(beside: &[u8]) -> Option<TopicId> {
    let id = URL_SAFE_NO_PAD.decode(beside.strip_prefix(OURS.as_bytes())?).ok()?;
    Some(TopicId(u128::from_be_bytes(id.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_have_written_says_what_it_is_about() {
        for id in [TopicId(1), TopicId(u128::MAX)] {
            let written = beside(id);
            assert_eq!((written.len(), about(written.as_bytes())), (37, Some(id)));
            assert_eq!(about(&written.as_bytes()[..36]), None);
        }
        for strange in [&b""[..], b"seriatim-topic=", b"seriatim-topic=?", b"\xff\xfe", b"worker-7"] {
            assert_eq!(about(strange), None);
        }
    }
}
