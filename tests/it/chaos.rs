//! Everything at once: models that do every wrong thing, clients that leave at every moment. Whatever happened, all
//! requests, legs, pairs and bytes are accounted for in the end, which is what the bench checks after each test.

use std::collections::HashMap;
use std::time::Duration;

use crate::support::chance::Dice;
use crate::support::h2::{Frames, H2Client, H2Stub, h2_post};
use crate::support::stub::Seen;
use crate::support::{Act, Bench, Client, Plan, Stub, answer, ok_json};

/// What a model does with a request: told by the request's id and the model's own number, so the two do not agree.
fn misbehave(seen: &Seen, salt: u64) -> Vec<Act> {
    let id = seen.value("x-request-id").unwrap_or_default();
    let seed = id.bytes().fold(salt, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let chunks = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"y\":\r\n";
    match Dice(seed | 1 << 40).roll(12) {
        0 => vec![Act::Reset],
        1 => vec![Act::Close],
        2 => vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{".to_vec()), Act::Close],
        3 => vec![Act::Send(chunks.to_vec()), Act::Reset],
        4 => vec![Act::Send(answer("500 No", &[], b"no"))],
        5 => vec![Act::Send(b"garbage\r\n\r\n".to_vec()), Act::Close],
        6 => vec![Act::Pause(Duration::from_millis(150)), Act::Send(ok_json(r#"{"y":1}"#))],
        7 => vec![Act::Send(ok_json(r#"{"y":1}"#)), Act::Close],
        8 => vec![Act::Send(answer("200 OK", &[], &vec![b'x'; 100_000]))],
        _ => vec![Act::Send(ok_json(r#"{"y":1}"#))],
    }
}

/// One client's life: requests of many kinds, some of them abandoned.
fn live(traffic: std::net::SocketAddr, who: u64) {
    let mut dice = Dice(who + 1);
    let mut client = Client::to(traffic);
    for nth in 0..60 {
        let body = "a".repeat(dice.roll(3) as usize * 20_000 + 2);
        let head = format!("POST / HTTP/1.1\r\nhost: t\r\nx-request-id: {who}-{nth}\r\n");
        let whole = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let closed = match dice.roll(8) {
            0 => {
                client.send(&whole[..whole.len() - 1]);
                true
            }
            1 => {
                client.send(&whole);
                client.wire.reset();
                true
            }
            2 => {
                client.send(&whole);
                std::thread::sleep(Duration::from_millis(dice.roll(5)));
                true
            }
            3 => {
                client.send(format!("{head}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"));
                client.try_answer("POST").is_err()
            }
            _ => {
                client.send(&whole);
                client.try_answer("POST").is_err()
            }
        };
        if closed || dice.roll(6) == 0 {
            client = Client::to(traffic);
        }
    }
}

/// Every request was copied or the copy was refused with a reason, and each copy made just one pair.
fn assert_accounted(bench: &Bench) {
    bench.settle();
    let metrics = bench.metrics();
    let pairs = bench.pairs(metrics.count("shadowpair_pairs_delivered_total", &[]) as usize);
    let mut times: HashMap<(String, String), usize> = HashMap::new();
    for pair in &pairs {
        let id = pair["request_id"].as_str().unwrap().to_owned();
        *times.entry((id, pair["candidate"]["role"].as_str().unwrap().to_owned())).or_default() += 1;
    }
    assert!(times.values().all(|count| *count == 1), "a pair twice: {times:?}");
    let seen = metrics.sum("shadowpair_requests_total", &[("route", "r")]);
    for (model, role) in [("c", "shadow"), ("p", "control")] {
        let labels = [("model", model), ("role", role)];
        let made = metrics.count("shadowpair_pairs_total", &labels);
        let skipped = metrics.count("shadowpair_shadow_skipped_total", &labels);
        let legs = metrics.count("shadowpair_legs_total", &labels);
        assert_eq!(made + skipped, seen, "{role}: {made} made, {skipped} skipped of {seen}");
        assert_eq!(legs, made, "{role}: a leg for each pair");
    }
    assert!(pairs.len() > 50, "the most were copied: {}", pairs.len());
}

#[test]
fn all_is_accounted_for_when_everything_goes_wrong_at_once() {
    let p = Stub::new(|seen| misbehave(seen, 1));
    let c = Stub::new(|seen| misbehave(seen, 2));
    let bench = Plan::pair(p.address, c.address)
        .shadow("[{model: c, percent: 100, timeout: 100ms, max_in_flight: 16}]")
        .route("control: {percent: 100, timeout: 100ms}")
        .route("copy_body: 64KiB")
        .with("p", "timeout: {first_byte: 100ms, idle: 100ms}")
        .server("limits: {shadow_bytes: 4MiB, idle_timeout: 500ms}")
        .start();
    let traffic = bench.traffic;
    let clients: Vec<_> = (0..3).map(|who| std::thread::spawn(move || live(traffic, who))).collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_accounted(&bench);
}

#[test]
fn all_is_accounted_for_over_http2_too() {
    let script = |salt: usize| {
        move |seen: &crate::support::h2::Message<http::request::Parts>| {
            let frames = Frames::default().data(r#"{"y":"#);
            let body = match (seen.body.len() + salt) % 4 {
                0 => frames.broken(),
                1 => Frames::default().broken(),
                _ => frames.data("1}"),
            };
            http::Response::new(body)
        }
    };
    let (p, c) = (H2Stub::new(script(0)), H2Stub::new(script(1)));
    let bench = Plan::pair(p.address, c.address)
        .with("p", "protocol: h2")
        .with("c", "protocol: h2")
        .route("control: {percent: 100}")
        .start();
    let mut client = H2Client::to(bench.traffic);
    for nth in 0..40_usize {
        let body = "x".repeat(nth);
        let requests = vec![
            h2_post("/", Frames::bytes(body.clone())),
            h2_post("/", Frames::default().data(body.clone()).broken()),
            h2_post("/", Frames::bytes(body)),
        ];
        drop(client.ask_all(requests));
        client.cancel(h2_post("/", Frames::default().data("half").never()), || true);
    }
    drop(client);
    assert_accounted(&bench);
}
