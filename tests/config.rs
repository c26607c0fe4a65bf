//! The configuration against its documentation, and its errors as a user sees them.

use std::collections::{BTreeMap, BTreeSet};

use seriatim::process::config::{Builtin, By, Config, Error};

const PAGE: &str = include_str!("../docs/configuration.md");

/// A documented key: default and example as TOML, empty where there is none.
struct Row {
    key: String,
    default: String,
    example: String,
}

fn rows() -> Vec<Row> {
    let table = PAGE.lines().filter(|line| line.starts_with("| `"));
    let rows: Vec<Row> = table
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
            let key = cells[1].replace("NAME", "billing");
            Row { key, default: cells[2].to_owned(), example: cells[3].to_owned() }
        })
        .collect();
    assert!(rows.len() > 40, "the table was not found");
    rows
}

fn parse(text: &str) -> Result<Config, Error> {
    Config::parse(text, [])
}

const TCP_PUSH: &str = "destinations.billing.push.tcp.address = 'a:1'\n\
    destinations.billing.push.tcp.framing = 'newline'\ndestinations.billing.push.tcp.tls = true";

/// What else a key needs to make sense.
fn companions(key: &str) -> &'static str {
    match key {
        "log.control_partitions" => "log.partitions = 4",
        "ingress.tls.certificate_file" => "ingress.tls.key_file = 'k'",
        "ingress.tls.key_file" => "ingress.tls.certificate_file = 'c'",
        "ingress.tls.client_ca_file" => "ingress.tls.certificate_file = 'c'\ningress.tls.key_file = 'k'",
        "ingress.quota.messages" => "ingress.quota.per = '1h'",
        "ingress.quota.per" => "ingress.quota.messages = 7",
        "batch.events" => "destinations.hooks.topic = 'h'",
        "batch.item_events" => "batch.events = 'default'",
        "destinations.billing.push.rate.messages" => {
            "destinations.billing.push.http.url = 'https://a'\ndestinations.billing.push.rate.per = '1h'"
        }
        "destinations.billing.push.rate.per" => {
            "destinations.billing.push.http.url = 'https://a'\ndestinations.billing.push.rate.messages = 7"
        }
        "work.exec.processes" => "work.exec.command = ['true']",
        "destinations.billing.push.http" | "destinations.billing.push.http.url" | "destinations.billing.push.tcp" => "",
        "destinations.billing.push.tcp.address" => {
            "destinations.billing.push.tcp.framing = 'mllp'\ndestinations.billing.push.tcp.tls = true"
        }
        "destinations.billing.push.tcp.framing" => {
            "destinations.billing.push.tcp.address = 'a:1'\ndestinations.billing.push.tcp.tls = true"
        }
        "destinations.billing.push.tcp.tls" => {
            "destinations.billing.push.tcp.address = 'a:1'\ndestinations.billing.push.tcp.framing = 'mllp'\n\
             destinations.billing.push.tcp.allow_private = true"
        }
        _ if key.starts_with("destinations.billing.push.tcp.") => TCP_PUSH,
        _ if key.starts_with("destinations.billing.push") => "destinations.billing.push.http.url = 'https://a'",
        _ => "",
    }
}

#[test]
fn every_documented_key_is_taken_from_file_and_environment_alike() {
    for Row { key, example, .. } in rows() {
        let other = companions(&key);
        let from_file = parse(&format!("{other}\n{key} = {example}")).unwrap_or_else(|e| panic!("{key}: {e}"));
        let variable = format!("SERIATIM_{}", key.to_uppercase().replace('.', "__"));
        let from_env = Config::parse(other, [(variable.as_str(), example.as_str())]);
        assert_eq!(from_env.as_ref(), Ok(&from_file), "{key}");
        assert_ne!(Ok(from_file), parse(other), "{key}: the example is to differ from the default");
    }
}

#[test]
fn every_documented_default_is_the_default() {
    for Row { key, default, .. } in rows().into_iter().filter(|row| !row.default.is_empty()) {
        let other = companions(&key);
        assert_eq!(parse(&format!("{other}\n{key} = {default}")), parse(other), "{key}");
    }
}

/// The keys that the parser itself names when it meets one that it does not know.
fn known_keys(section: &str) -> BTreeSet<String> {
    let unknown = if section.is_empty() { "zzzzzzzz".to_owned() } else { format!("{section}.zzzzzzzz") };
    let error = parse(&format!("{unknown} = 1")).expect_err("it is unknown").to_string();
    let (_, keys) = error.split_once("there are: ").unwrap_or_else(|| panic!("{section}: {error}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented() {
    let mut documented: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for Row { key, .. } in rows() {
        let parts: Vec<&str> = key.split('.').collect();
        for depth in 0..parts.len() {
            let section = parts[..depth].join(".");
            documented.entry(section).or_default().insert(parts[depth].to_owned());
        }
    }
    // Below these, keys are not ours: names of destinations, properties of librdkafka.
    documented.remove("destinations");
    documented.remove("log.kafka");
    for (section, keys) in documented {
        assert_eq!(known_keys(&section), keys, "section \"{section}\"");
    }
}

#[test]
fn every_key_of_a_port_for_frames_is_documented() {
    let (_, section) = PAGE.split_once("## Ports for frames").expect("there is such a section");
    let documented = |prefix: &str| -> BTreeSet<String> {
        let rows = section.lines().filter_map(|line| line.strip_prefix("- `")?.split_once('`'));
        let keys = rows.filter_map(|(key, _)| key.strip_prefix(prefix)).filter(|key| !key.contains('.'));
        keys.map(str::to_owned).collect()
    };
    let known = |inside: &str| -> BTreeSet<String> {
        let port = format!("ingress.tcp = [{{ listen = '[::]:1', framing = 'mllp', {inside} }}]");
        let error = parse(&port).expect_err("zzzzzzzz is unknown").to_string();
        let (_, keys) = error.split_once("there are: ").unwrap_or_else(|| panic!("{error}"));
        keys.split(", ").map(str::to_owned).collect()
    };
    assert_eq!(documented(""), known("zzzzzzzz = 1"));
    assert_eq!(documented("hl7."), known("hl7.zzzzzzzz = 1"));
    assert_eq!(documented("tls."), known("tls.zzzzzzzz = 1"));
}

#[test]
fn the_example_on_the_page_is_taken() {
    let (_, rest) = PAGE.split_once("```toml\n").expect("there is an example");
    let (example, _) = rest.split_once("```").expect("the example ends");
    let config = parse(example).expect("the example is right");
    assert_eq!((config.name.as_str(), config.work.concurrency.get()), ("orders", 200));
}

#[test]
fn errors_say_what_where_and_what_to_do() {
    for (text, expected) in [
        ("name = 'a b'", "config:1:1: name: \"a b\" is no name: 1 to 100 letters"),
        (
            "[work]\n\n  concurency = 1",
            "config:3:3: work.concurency: there is no such key; did you mean `concurrency`?",
        ),
        ("[wrok]", "config:1:2: wrok: there is no such key; did you mean `work`?"),
        ("work.concurrency = 0", "config:1:6: work.concurrency: invalid value: integer `0`, expected a nonzero u32"),
        ("work.timeout = '5'", "config:1:6: work.timeout: \"5\" is no duration: write a number with its unit"),
        ("work.timeout = 5", "config:1:6: work.timeout: invalid type: integer `5`, expected a string"),
        ("ingress.max_body = 'much'", "config:1:9: ingress.max_body: \"much\" is no size"),
        ("order.by = 'keys'", "config:1:7: order.by: \"keys\" is no order: write \"lane\", \"destination\""),
        ("ingress.http = ':8080'", "config:1:9: ingress.http: \":8080\" is no address: write HOST:PORT"),
        ("ingress.udp = []", "config:1:9: ingress.udp: there is no such key"),
        (
            "ingress.tcp = [{ listen = '[::]:1', framing = 'mllp', ack = 'line' }]",
            "ingress.tcp: [::]:1: with this framing ack is one of none, mllp-commit, hl7",
        ),
        (
            "ingress.tcp = [{ listen = '127.0.0.1:8080', framing = 'newline' }]",
            "ingress.tcp: 127.0.0.1:8080: is the address of ingress.http, too",
        ),
        (
            "ingress.tcp = [{ listen = '[::]:1', framing = 'mllp', hl7 = { key = 'PID-3' } }]",
            "\"PID-3\" names no fields: write them as in \"MSH-4|MSH-3\"",
        ),
        (
            "ingress.tcp = [{ listen = '[::]:1', framing = 'newline', principal = '' }]",
            "ingress.tcp: [::]:1: principal has to have 1 to 255 printable ASCII characters",
        ),
        ("work.http = {}", "config:1:6: work.http: missing field `url`"),
        ("log.max_disk = '20MiB'", "log.max_disk: 20MiB is less than the log's journals take; give 128.0 MiB at least"),
        ("log.reserve = '1MiB'", "log.reserve: 1MiB is too little to finish what was taken in; give 32.0 MiB at least"),
        ("work = { jq = '.', builtin = 'echo' }", "config:1:20: work.builtin: jq and builtin are given, but only one"),
        ("work.exec.command = []", "config:1:11: work.exec.command: names no program"),
        ("work.deadline = '30s'", "config:1:6: work.deadline: 30s is not longer than work.timeout, which is 30s"),
        ("log.control_partitions = 2", "config:1:5: log.control_partitions: 2 is more than log.partitions, which is 1"),
        ("log.partitions = 5000", "config:1:5: log.partitions: 5000 lanes and 1 destinations do not fit"),
        ("log = { embedded = 'a', kafka = {} }", "config:1:25: log.kafka: log.embedded is given, too"),
        ("admin.listen = '127.0.0.1:8080'", "config:1:7: admin.listen: is the address of ingress.http, too"),
        ("order.memory = '1KiB'", "config:1:7: order.memory: 1KiB cannot hold one message"),
        (
            "destinations.a.topic = 'seriatim.input'",
            "destinations.a.topic: topic seriatim.input is that of topics.input",
        ),
        (
            "destinations.a.push.http.url = 'http://b'",
            "destinations.a.push.http.url: plain http is for receivers in your",
        ),
        ("destinations.a.push = {}", "destinations.a.push: names no receiver: give http or tcp"),
        (
            "destinations.a.push.tcp = { address = 'a:1', framing = 'mllp' }",
            "destinations.a.push.tcp.address: plain TCP is for receivers in your own network",
        ),
        ("name = ", "config:1:8: is no TOML: "),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}\n  gave {error}\n  not  {expected}");
    }
}

#[test]
fn errors_name_the_property_of_kafka_and_its_place() {
    for (text, expected) in [
        (
            "log.kafka = { 'bootstrap.servers' = 'k:9092', 'transaction.timeout.ms' = 10001 }",
            "config:1:47: log.kafka.transaction.timeout.ms: 10001 is too long, as it is how long a frozen process holds up",
        ),
        ("log.kafka = { 'bootstrap.servers' = 'k:9092', 'linger.ms' = 'abc' }", "config:1:47: log.kafka.linger.ms: "),
        (
            "[log.kafka]\n'bootstrap.servers' = 'k:9092'\n'no.such' = 1",
            "config:3:1: log.kafka.no.such: librdkafka has no such property",
        ),
        ("log.kafka = {}", "config:1:5: log.kafka.bootstrap.servers: is missing"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.contains(expected), "{text}\n  gave {error}\n  not  {expected}");
    }
}

#[test]
fn errors_name_the_variable_that_brought_the_value() {
    let error = |name, value| Config::parse("work.jq = '.'", [(name, value)]).expect_err(name).to_string();
    assert_eq!(
        error("SERIATIM_WORK__CONCURENCY", "1"),
        "SERIATIM_WORK__CONCURENCY: work.concurency: there is no such key; did you mean `concurrency`?"
    );
    assert!(error("SERIATIM_WORK__TIMEOUT", "soon").starts_with("SERIATIM_WORK__TIMEOUT: work.timeout: \"soon\""));
    assert!(error("SERIATIM_WORK__HTTP__URL", "http://a").starts_with("config:1:6: work.jq: http and jq are given"));
    let brokers = "log.kafka = { 'bootstrap.servers' = 'k:9092' }";
    for (variable, value) in [
        ("SERIATIM_LOG__KAFKA__ACKS", "1"),
        ("SERIATIM_LOG__KAFKA__TRANSACTION.TIMEOUT.MS", "60000"),
        ("SERIATIM_LOG__KAFKA__TRANSACTION_TIMEOUT_MS", "60000"),
        ("SERIATIM_LOG__KAFKA", "{ 'bootstrap.servers' = 'k:9092', acks = 1 }"),
    ] {
        let error = Config::parse(brokers, [(variable, value)]).expect_err(variable).to_string();
        assert!(error.starts_with(&format!("{variable}: log.kafka.")), "{error}");
    }
    assert!(
        error("SERIATIM_WORK__JQ__X", "1").contains("SERIATIM_WORK__JQ__X: work.jq.x: `jq` is a string and has no")
    );
}

#[test]
fn all_that_does_not_fit_together_is_said_at_once() {
    let error = parse("work.deadline = '1s'\nlog.control_partitions = 2").expect_err("both are wrong");
    assert_eq!(error.problems.len(), 2, "{error}");
}

#[test]
fn the_environment_goes_over_the_file_key_by_key() {
    let text = "[work]\nbuiltin = 'echo'\nretry = { attempts = 2, backoff = '1s' }";
    let config = Config::parse(
        text,
        [
            ("SERIATIM_WORK__RETRY__ATTEMPTS", "9"),
            ("SERIATIM_WORK__BUILTIN", "{ sleep = '750ms' }"),
            ("SERIATIM_ORDER__BY", "header:X-Tenant"),
            ("UNRELATED", "x"),
        ],
    )
    .expect("it is right");
    assert_eq!(config.work.retry.attempts.get(), 9);
    assert_eq!(config.work.retry.backoff.to_string(), "1s");
    assert!(matches!(config.work.builtin, Some(Builtin::Sleep(_))));
    assert_eq!(config.order.by, By::Header("x-tenant".to_owned()));
}

#[test]
fn the_dump_is_a_config_of_the_same_meaning_without_secrets() {
    let text = "
        work.http.url = 'http://me:hush1@worker/'
        log.kafka = { 'bootstrap.servers' = 'k:9092', 'sasl.password' = 'hush2', 'linger.ms' = 5 }
        destinations.a.push.http.url = 'https://hush3:@a/'
    ";
    let config = parse(text).expect("it is right");
    let dump = config.dump();
    assert!(!dump.contains("hush"), "{dump}");
    assert!(dump.contains("k:9092") && dump.contains("http://***@worker/"), "{dump}");
    let again = parse(&dump).unwrap_or_else(|e| panic!("{e}\n{dump}"));
    assert_eq!(again.dump(), dump);

    // What is no table is told without being repeated.
    let broken = Config::parse("", [("SERIATIM_LOG__KAFKA", "{ 'sasl.password' = hush }")]).expect_err("it is a text");
    assert!(
        broken.to_string().contains("log.kafka: is a string: write a table") && !broken.to_string().contains("hush")
    );

    let plain = parse("order.by = 'key'\nlog.retention = '1h 30m'\nlog.max_disk = '1234567890'").expect("it is right");
    assert_eq!(parse(&plain.dump()), Ok(plain), "where nothing is hidden, nothing is lost");
}

#[test]
fn topics_derive_and_can_be_named() {
    let config =
        parse("name = 'shop'\ntopics.input = 'legacy'\n[destinations.mail]\n[destinations.fax]\ntopic = 'fax'");
    let topics = config.expect("it is right").topics();
    assert_eq!((topics.input.as_str(), topics.results.as_str()), ("legacy", "shop.results"));
    let of = |name: &str| topics.destinations[name].as_str();
    assert_eq!((of("default"), of("mail"), of("fax")), ("shop.output", "shop.output.mail", "fax"));
}
