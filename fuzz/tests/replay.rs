//! The committed corpora, and a short search, as ordinary tests.

use krater_fuzz::{Mutator, TARGETS, corpus};
use krater_model::guest;

#[path = "../../dataplane/tests/differential/table.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the differential tests' own"
)]
mod table;

#[test]
fn every_target_survives_its_corpus_and_a_short_search() {
    for (name, target) in TARGETS {
        let inputs: Vec<Vec<u8>> = corpus(name).unwrap().into_iter().map(|f| f.1).collect();
        assert!(!inputs.is_empty(), "corpus/{name} is empty");
        inputs.iter().for_each(|input| target(input));
        let mut mutator = Mutator::new(7);
        for _ in 0..300 {
            target(&mutator.mutate(&inputs));
        }
    }
}

/// The requests and answers of the differential tests, and what becomes of them by a few mutations.
#[test]
fn the_differential_cases_are_survived_too() {
    let cases = table::cases();
    assert!(cases.len() > 200, "{} cases", cases.len());
    let requests: Vec<Vec<u8>> = cases.iter().map(table::Case::sent).collect();
    let replies = cases.iter().flat_map(|case| &case.replies);
    let responses: Vec<Vec<u8>> = replies.map(|reply| reply.bytes.clone()).collect();
    let body = |message: &Vec<u8>| {
        let end = message.windows(4).position(|w| w == b"\r\n\r\n")?;
        message.get(end + 4..).map(<[u8]>::to_vec)
    };
    let bodies = requests.iter().chain(&responses).filter_map(body).collect();
    for (name, inputs) in [
        ("http1_request", requests),
        ("http1_response", responses),
        ("http1_chunked", bodies),
    ] {
        let target = krater_fuzz::target(name).unwrap();
        let mut mutator = Mutator::new(11);
        inputs.iter().for_each(|input| target(input));
        for _ in 0..2_000 {
            target(&mutator.mutate(&inputs));
        }
    }
}

#[test]
fn every_corpus_folder_has_a_target() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            krater_fuzz::target(&name).is_some(),
            "corpus/{name} has no target"
        );
    }
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let inputs = vec![b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec()];
    let run = |seed| {
        let mut mutator = Mutator::new(seed);
        (0..50).map(|_| mutator.mutate(&inputs)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(3));
}

/// Negative control: the search finds a parser that panics behind two particular bytes.
#[test]
fn a_broken_parser_is_found() {
    let inputs = vec![b"HTTP/1.1 200 OK\r\n\r\n".to_vec()];
    let mut mutator = Mutator::new(1);
    let broken = (0..20_000).any(|_| mutator.mutate(&inputs).windows(2).any(|w| w == b"99"));
    assert!(broken);
}

/// A corpus whose files are all refused at the first byte would search nothing.
#[test]
fn the_corpus_holds_messages_that_are_accepted() {
    let read = |name: &str| {
        String::from_utf8(
            std::fs::read(format!("{}/corpus/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap(),
        )
        .unwrap()
    };
    krater_model::DesiredState::parse(read("desired_state/pair.json").as_bytes()).unwrap();
    krater_model::config::AgentConfig::parse(&read("agent_toml/full.toml")).unwrap();
    serde_json::from_str::<krater_model::wire::heartbeat::Beat>(&read("heartbeat/beat.json"))
        .unwrap();
    for name in ["nova.json", "dhcp.json"] {
        let text = read(&format!("network_data/{name}"));
        guest::network_data::Management::parse(text.as_bytes()).unwrap();
    }
    guest::meta_data::MetaData::parse(read("meta_data/nova.json").as_bytes()).unwrap();
    guest::cloud_config::CloudConfig::parse(read("cloud_config/octavia.yaml").as_bytes()).unwrap();
    assert_eq!(
        guest::order::parse(&read("module_order/cloud"))
            .unwrap()
            .len(),
        2
    );
    for (path, packet) in corpus("dhcp_packet").unwrap() {
        let mac = krater_model::MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
        let taken = guest::dhcp::packet::read(&packet, mac, 1);
        assert!(taken.is_ok(), "{}: {taken:?}", path.display());
    }
    // A message of every resource and operation, each understood as what its name says.
    for body in krater_controller::http::v2::BODIES {
        let text = read(&format!("api_body/{body}.json"));
        krater_controller::http::v2::read(body, text.as_bytes())
            .unwrap_or_else(|error| panic!("{body}: {error}"));
    }
}
