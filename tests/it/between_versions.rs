//! HTTP/2 clients before HTTP/1.1 models: what one version allows and the other takes for an error is mended on the way.

use http::{Request, response};

use crate::support::h2::{Frames, Message};
use crate::support::{Bench, Plan, Stub, get};

fn ask_h2(bench: &Bench) -> Message<response::Parts> {
    bench.h2().ask(Request::get("http://models.test/").body(Frames::default()).unwrap()).expect("a whole answer")
}

#[test]
fn cookies_in_several_fields_are_one_before_an_http1_model() {
    let (p, c) = (Stub::json(r#"{"y":1}"#), Stub::json(r#"{"y":1}"#));
    let bench = Plan::pair(p.address, c.address).start();
    let request = Request::get("http://models.test/").header("cookie", "a=1").header("x-between", "1");
    let request = request.header("cookie", "session=s").header("cookie", "c=3");
    bench.h2().ask(request.body(Frames::default()).unwrap()).unwrap();
    for stub in [&p, &c] {
        let seen = stub.one();
        assert_eq!(seen.head.values("cookie"), ["a=1; session=s; c=3"]);
        assert_eq!(seen.value("x-between").as_deref(), Some("1"));
    }
    // What an HTTP/1.1 client has in two is its own affair.
    bench.ask("GET / HTTP/1.1\r\nhost: t\r\ncookie: a=1\r\ncookie: b=2\r\n\r\n");
    assert_eq!(p.wait(2)[1].head.values("cookie"), ["a=1", "b=2"]);
}

#[test]
fn fields_of_a_connection_in_an_answers_trailers_do_not_reach_the_client() {
    for name in ["connection", "keep-alive", "upgrade", "transfer-encoding", "proxy-connection", "te"] {
        let head = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n";
        let p = Stub::sending(format!("{head}7\r\n{{\"y\":1}}\r\n0\r\n{name}: close\r\nx-sum: 7\r\n\r\n"));
        let bench = Plan::prod(p.address).start();
        let answer = ask_h2(&bench);
        assert!(!answer.broken, "{name}");
        assert_eq!(answer.body, br#"{"y":1}"#, "{name}");
        assert_eq!(answer.trailers.len(), 1, "{name}");
        assert_eq!(answer.trailers["x-sum"], "7", "{name}");
    }
}

#[test]
fn a_length_that_is_said_twice_is_passed_on_once() {
    for lengths in ["content-length: 7, 7", "content-length: 7\r\nx-between: 1\r\nContent-Length: 7"] {
        let p = Stub::sending(format!("HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n{{\"y\":1}}"));
        let bench = Plan::prod(p.address).start();
        let answer = ask_h2(&bench);
        let given: Vec<_> = answer.head.headers.get_all("content-length").iter().collect();
        assert_eq!(given, ["7"], "{lengths}");
        assert_eq!((answer.body.as_slice(), answer.broken), (br#"{"y":1}"#.as_slice(), false), "{lengths}");
        assert_eq!(bench.ask(get("/")).head.values("content-length"), ["7"], "{lengths}");
    }
}

#[test]
fn a_204_has_no_length() {
    let p = Stub::sending("HTTP/1.1 204 No Content\r\ncontent-length: 7\r\nx-end: 1\r\n\r\n");
    let bench = Plan::prod(p.address).start();
    let answer = ask_h2(&bench);
    assert_eq!((answer.head.status.as_u16(), answer.broken), (204, false));
    assert_eq!(answer.head.headers.get("content-length"), None);
    assert_eq!(answer.head.headers["x-end"], "1");
    assert_eq!(bench.ask(get("/")).value("content-length"), None);
}
