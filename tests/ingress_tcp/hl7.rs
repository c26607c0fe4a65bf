//! HL7 over MLLP.

use bytes::BytesMut;
use seriatim::framing::Framing;
use seriatim::ingress;
use seriatim::ingress::tcp::Options;
use seriatim::log::memory::Faults;
use seriatim::record::partition_of_key;

use crate::fixture::{Sender, Server, serve};

fn message(sender: &str, control_id: &str) -> String {
    format!("MSH|^~\\&|{sender}|WARD|LAB|MAIN|20260101||ORU^R01|{control_id}|P|2.5\rOBX|1|NM|x\r")
}

fn blocks(messages: &[&str]) -> BytesMut {
    let mut stream = BytesMut::new();
    for message in messages {
        Framing::Mllp.put(message.as_bytes(), &mut stream).expect("it can be framed");
    }
    stream
}

/// MSA and what belongs to it.
async fn verdicts(sender: &mut Sender, count: usize) -> Vec<String> {
    let answers = sender.answers(Framing::Mllp, count).await;
    let verdict = |answer: &String| {
        let (head, rest) = answer.split_once("\rMSA|").unwrap_or_else(|| panic!("{answer:?}"));
        assert!(head.starts_with("MSH|^~\\&|"), "{answer:?}");
        rest.trim_end_matches('\r').to_owned()
    };
    answers.iter().map(verdict).collect()
}

async fn hl7(lanes: u32) -> Server {
    serve(Options::new(Framing::Mllp), ingress::Options::default(), lanes).await
}

#[tokio::test]
async fn messages_are_accepted_one_after_the_other_under_their_identity() {
    let server = hl7(4).await;
    let mut sender = server.connect().await;
    let (one, two) = (message("ADT1", "17"), message("ADT1", "18"));
    sender.send(&blocks(&[&one, &two])).await;
    assert_eq!(verdicts(&mut sender, 2).await, ["AA|17", "AA|18"]);
    let key = b"WARD|ADT1";
    let input = server.input(partition_of_key(key, 4).0);
    let values: Vec<_> = input.iter().map(|record| record.value.as_deref()).collect();
    assert_eq!(values, [Some(one.as_bytes()), Some(two.as_bytes())], "the bytes are those that came");
    assert!(input.iter().all(|record| record.key.as_deref() == Some(key)));
    assert_eq!(input[0].headers, [(b"seriatim-id".to_vec(), b"anonymous/WARD%7CADT1%7C17".to_vec())]);
}

#[tokio::test]
async fn the_answer_names_the_place_and_goes_back_to_the_sender() {
    let server = hl7(1).await;
    let mut sender = server.connect().await;
    sender.send(&blocks(&[&message("ADT1", "17")])).await;
    let answer = sender.answers(Framing::Mllp, 1).await.remove(0);
    let fields: Vec<&str> = answer.split('|').collect();
    assert_eq!(&fields[2..6], ["LAB", "MAIN", "ADT1", "WARD"]);
    assert_eq!(&fields[8..10], ["ACK^R01", "0-0"]);
}

#[tokio::test]
async fn what_is_no_message_is_refused_in_its_turn_and_the_next_one_taken() {
    let server = hl7(1).await;
    let mut sender = server.connect().await;
    sender.send(&blocks(&[&message("A", "1"), "hello", "MSH|^~\\&|A|B|C|D|E||ORU", &message("A", "2")])).await;
    let expected = [
        "AA|1",
        "AE||the message does not begin with MSH and a field separator",
        "AE||MSH-10, the message's control id, is empty",
        "AA|2",
    ];
    assert_eq!(verdicts(&mut sender, 4).await, expected);
    assert_eq!(server.input(0).len(), 2);
}

#[tokio::test]
async fn what_cannot_be_stored_is_rejected_and_an_unknown_outcome_not_answered() {
    let server = hl7(1).await;
    server.log.set_faults(Faults { append_unavailable: 1.0, ..Faults::default() });
    let mut sender = server.connect().await;
    sender.send(&blocks(&[&message("A", "1"), &message("A", "2")])).await;
    let rest = sender.rest().await;
    assert!(rest.contains("\rMSA|AR|1|") && !rest.contains("|2|"), "{rest:?}");

    server.log.set_faults(Faults { append_unknown_written: 1.0, ..Faults::default() });
    let mut sender = server.connect().await;
    sender.send(&blocks(&[&message("A", "1")])).await;
    assert_eq!(sender.rest().await, "");
}

#[tokio::test]
async fn a_block_that_does_not_begin_as_one_ends_the_connection() {
    let server = hl7(1).await;
    let mut sender = server.connect().await;
    sender.send(message("A", "1").as_bytes()).await;
    let rest = sender.rest().await;
    assert!(rest.contains("\rMSA|AE||a block does not begin with 0x0B"), "{rest:?}");
    assert!(server.input(0).is_empty());
}
