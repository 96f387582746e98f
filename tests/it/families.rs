//! Each family of model servers with its own recorded requests and answers, under the rules of its example in
//! `deploy/examples`: what passes is what was recorded, byte for byte, the pair says what passed, ids and times are no
//! difference, and a prediction that changed is one.

use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Act, Bench, Stub, answer, request};

/// A request or an answer without its first line.
#[derive(Clone)]
struct Message {
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    /// As its source holds it: a body alone, or a whole message (`.http`).
    fn recorded(file: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/payloads").join(file);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{error}: {}", path.display()));
        if !file.ends_with(".http") {
            return Self::json(bytes);
        }
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let head = std::str::from_utf8(&bytes[..end]).expect("a head of text");
        let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        let others = fields.filter(|(name, _)| !["host", "content-length"].contains(&name.to_lowercase().as_str()));
        let fields = others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { fields, body: bytes[end + 4..].to_vec() }
    }

    fn json(body: impl Into<Vec<u8>>) -> Self {
        Self { fields: vec![("content-type".into(), "application/json".into())], body: body.into() }
    }

    /// The same with another type.
    fn typed(mut self, content_type: &str) -> Self {
        self.fields = vec![("content-type".into(), content_type.into())];
        self
    }

    /// The same with this text in place of that one.
    fn with(&self, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.body.clone()).expect("a body of text");
        assert!(text.contains(from), "no {from} in {text}");
        Self { fields: self.fields.clone(), body: text.replace(from, to).into_bytes() }
    }

    fn fields(&self) -> Vec<(&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn as_answer(&self) -> Vec<u8> {
        answer("200 OK", &self.fields(), &self.body)
    }

    /// What a record shows of it.
    fn recorded_as(&self, encoding: &str) -> Value {
        let text = match encoding {
            "base64" => STANDARD.encode(&self.body),
            _ => String::from_utf8(self.body.clone()).expect("a body of text"),
        };
        json!({"encoding": encoding, "data": text, "truncated": false, "reason": null})
    }
}

/// The proxy with a family's example, between two models that answer what a test gives them.
struct Family {
    bench: Bench,
    prod: (Stub, Arc<Mutex<Vec<u8>>>),
    candidate: (Stub, Arc<Mutex<Vec<u8>>>),
    pairs: usize,
}

fn model() -> (Stub, Arc<Mutex<Vec<u8>>>) {
    let next: Arc<Mutex<Vec<u8>>> = Arc::default();
    let said = Arc::clone(&next);
    (Stub::new(move |_| vec![Act::Send(said.lock().expect("the answer").clone())]), next)
}

impl Family {
    /// Only addresses and shares are not the example's own: every request is copied once, to the candidate.
    fn start(name: &str) -> Self {
        let (prod, candidate) = (model(), model());
        let dir = TempDir::new().expect("a folder");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("deploy/examples/{name}.yaml"));
        let example = std::fs::read_to_string(path).expect("the example");
        let lines = example.lines().filter(|line| !line.trim_start().starts_with("control:"));
        let mut yaml = lines.collect::<Vec<_>>().join("\n").replace("percent: 10,", "percent: 100,");
        for (from, to) in [
            ("0.0.0.0:8080", "127.0.0.1:0"),
            ("127.0.0.1:9901", "127.0.0.1:0"),
            ("127.0.0.1:9001", &prod.0.address.to_string()),
            ("127.0.0.1:9002", &candidate.0.address.to_string()),
            ("./pairs", &dir.path().join("pairs").display().to_string()),
        ] {
            assert!(yaml.contains(from), "{name}.yaml has {from}");
            yaml = yaml.replace(from, to);
        }
        Self { bench: Bench::start(&yaml, dir), prod, candidate, pairs: 0 }
    }

    /// One request, both answers, and the pair that comes of it.
    #[track_caller]
    fn pair(&mut self, target: &str, asked: &Message, prod: &Message, candidate: &Message) -> Value {
        *self.prod.1.lock().expect("the answer") = prod.as_answer();
        *self.candidate.1.lock().expect("the answer") = candidate.as_answer();
        let got = self.bench.ask(request(&format!("POST {target}"), &asked.fields(), &asked.body));
        assert_eq!((got.status, &got.body), (200, &prod.body), "prod's answer, byte for byte");
        for (name, value) in &prod.fields {
            assert_eq!(got.value(name).as_ref(), Some(value), "{name}");
        }
        self.pairs += 1;
        let seen = self.prod.0.wait(self.pairs).pop().expect("prod was asked");
        assert_eq!(
            (&seen.body, seen.target()),
            (&asked.body, format!("POST {target}").as_str()),
            "as the client sent it"
        );
        for (name, value) in &asked.fields {
            assert_eq!(seen.value(name).as_ref(), Some(value), "{name}");
        }
        self.bench.pairs(self.pairs).pop().expect("the pair")
    }

    /// The body of the candidate's last request.
    fn copied(&self) -> Vec<u8> {
        self.candidate.0.seen().pop().expect("the candidate was asked").body
    }

    /// The answer as it was recorded, from both: the pair says what passed, and how it compares.
    #[track_caller]
    fn same(&mut self, target: &str, asked: (&Message, &str), answered: (&Message, &str), result: &str) -> Value {
        let pair = self.pair(target, asked.0, answered.0, answered.0);
        assert_eq!(pair["request"]["body"], asked.0.recorded_as(asked.1));
        for leg in ["prod", "candidate"] {
            assert_eq!(pair[leg]["body"], answered.0.recorded_as(answered.1), "{leg}");
            assert_eq!(pair[leg]["bytes"], answered.0.body.len(), "{leg}");
        }
        assert_eq!(pair["result"], result, "{pair:#}");
        pair
    }

    /// What may differ between two answers that agree, and what may not.
    #[track_caller]
    fn flags(&mut self, target: &str, asked: &Message, answered: &Message, noise: &Message, changed: &Message) {
        let pair = self.pair(target, asked, answered, noise);
        assert!(["equal", "within_tolerance"].contains(&pair["result"].as_str().unwrap()), "no difference: {pair:#}");
        assert_eq!(pair["comparison"]["differs_at"], json!([]), "nor is one named: {pair:#}");
        let pair = self.pair(target, asked, answered, changed);
        assert_eq!(pair["result"], "differs", "{pair:#}");
    }
}

#[test]
fn oip_answers_differ_by_their_predictions_alone() {
    let mut oip = Family::start("oip");
    let target = "/v2/models/iris/infer";
    let (asked, answered) =
        (Message::recorded("oip-v2/iris.request.json"), Message::recorded("oip-v2/iris.response.json"));
    let pair = oip.same(target, (&asked, "json"), (&answered, "json"), "equal");
    assert_eq!(pair["comparison"]["differs_at"], json!([]));
    assert_eq!((&pair["prod"]["version"], oip.copied()), (&json!("v1.0.0"), asked.body.clone()));
    let noise = answered
        .with("823248cc-d770-4a51-9606-16803395569c", "another")
        .with("sklearn-iris", "sklearn-iris-v2")
        .with("v1.0.0", "v2.0.0");
    oip.flags(target, &asked, &answered, &noise, &answered.with("[1, 1]", "[1, 2]"));
    let other_outputs = Message::recorded("oip-v2/iris-proba.response.json");
    assert_eq!(oip.pair(target, &asked, &answered, &other_outputs)["result"], "differs");
    let loose = Message::recorded("oip-v2/digits-not-strict.request.json");
    oip.same(target, (&loose, "utf8"), (&answered, "json"), "equal");
    let (asked, answered) =
        (Message::recorded("oip-v2/wine.request.json"), Message::recorded("oip-v2/wine.response.json"));
    oip.same(target, (&asked, "json"), (&answered, "json"), "equal");
}

#[test]
fn kserve_v1_answers_compare_label_by_label() {
    let mut kserve = Family::start("kserve-v1");
    let target = "/v1/models/iris:predict";
    let asked = Message::recorded("kserve-v1/iris.request.json");
    let answered = Message::recorded("kserve-v1/iris.response.json");
    kserve.same(target, (&asked, "json"), (&answered, "json"), "equal");
    let copy = kserve.candidate.0.one();
    assert_eq!(copy.value("host").as_deref(), Some("iris-v2.models.example.com"));
    assert_eq!((copy.target(), &copy.body), ("POST /v1/models/iris-v2:predict", &asked.body));
    kserve.flags(target, &asked, &answered, &answered.with("[1, 1]", "[1.0,1]"), &answered.with("[1, 1]", "[1, 0]"));
    let (photo, cat) =
        (Message::recorded("kserve-v1/mnist.request.json"), Message::recorded("kserve-v1/pets-cat.response.json"));
    kserve.same(target, (&photo, "json"), (&cat, "json"), "equal");
    kserve.flags(target, &photo, &cat, &cat.with("\"It's", "\"It\\u0027s"), &cat.with("cat", "dog"));
    // As curl sends it, and with an answer that these rules do not fit.
    let photo = Message::recorded("kserve-v1/flower.request.json").typed("application/x-www-form-urlencoded");
    let flower = Message::recorded("kserve-v1/flower.response.json");
    kserve.same(target, (&photo, "json"), (&flower, "json"), "uncompared");
}

#[test]
fn tfserving_answers_compare_as_numbers_also_where_they_are_none() {
    let mut tfserving = Family::start("tfserving");
    let target = "/v1/models/half:predict";
    let asked = Message::recorded("tfserving/half-plus-three.request.json");
    let answered = Message::recorded("tfserving/half-plus-three.response.json");
    tfserving.same(target, (&asked, "json"), (&answered, "json"), "equal");
    assert_eq!(tfserving.copied(), asked.body);
    tfserving.flags(target, &asked, &answered, &answered.with("4.0", "4.0004"), &answered.with("4.0", "4.1"));
    let (asked, answered) =
        (Message::recorded("tfserving/nan.request.json"), Message::recorded("tfserving/nan.response.json"));
    tfserving.same(target, (&asked, "utf8"), (&answered, "utf8"), "equal");
    tfserving.flags(target, &asked, &answered, &answered.with("[NaN,", "[ NaN ,"), &answered.with("[NaN,", "[0.0,"));
    let asked = Message::recorded("tfserving/regress.request.json");
    let answered = Message::recorded("tfserving/regress.response.json");
    let target = "/v1/models/half:regress";
    tfserving.same(target, (&asked, "json"), (&answered, "json"), "equal");
    tfserving.flags(target, &asked, &answered, &answered.with("3.5", "3.501"), &answered.with("3.5", "3.6"));
}

#[test]
fn mlflow_takes_data_frames_and_csv() {
    let mut mlflow = Family::start("mlflow");
    // The answer that the same wine got over the Open Inference Protocol, in this protocol's form.
    let answered = Message::json(r#"{"predictions": [5.576883936610762]}"#);
    let asked = Message::recorded("mlflow/wine-split.request.json");
    let pair = mlflow.same("/invocations", (&asked, "json"), (&answered, "json"), "equal");
    assert_eq!((&pair["slices"], mlflow.copied()), (&json!({"alcohol": "9..10"}), asked.body.clone()));
    mlflow.flags("/invocations", &asked, &answered, &answered.with("5.57", "5.58"), &answered.with("5.57", "6.57"));
    for (file, encoding) in [("mlflow/csv.request.http", "utf8"), ("mlflow/records-top-level.request.json", "json")] {
        let asked = Message::recorded(file);
        let pair = mlflow.same("/invocations", (&asked, encoding), (&answered, "json"), "equal");
        assert_eq!(pair["slices"], json!({"alcohol": null}), "{file}");
    }
}

#[test]
fn seldon_answers_compare_by_meaning_and_without_their_puid() {
    let mut seldon = Family::start("seldon");
    let target = "/api/v1.0/predictions";
    let asked = Message::recorded("seldon-v1/iris.request.json");
    let answered = Message::recorded("seldon-v1/iris.response.json");
    seldon.same(target, (&asked, "json"), (&answered, "json"), "equal");
    assert_eq!(seldon.copied(), asked.body);
    seldon.flags(target, &asked, &answered, &answered.with("0.9956", "0.9957"), &answered.with("0.9956", "0.9356"));
    let asked = Message::recorded("seldon-v1/strdata.request.json");
    let answered = Message::recorded("seldon-v1/strdata.response.json");
    seldon.same(target, (&asked, "json"), (&answered, "json"), "equal");
    let noise = answered.with("9bp9uqjkduef1qvn3dnh69a566", "other").with("xss-model:0.1", "xss-model:0.2");
    let noise = noise.with("\\u003cdiv", "<div").with("\r\n", "\n");
    seldon.flags(target, &asked, &answered, &noise, &answered.with("This is", "That was"));
    let form = Message::recorded("seldon-v1/form.request.http");
    seldon.same(target, (&form, "utf8"), (&answered, "json"), "equal");
}

#[test]
fn openai_answers_compare_without_ids_times_and_fingerprints() {
    let mut openai = Family::start("openai");
    let target = "/v1/chat/completions";
    let (asked, answered) =
        (Message::recorded("openai/chat.request.json"), Message::recorded("openai/chat.response.json"));
    let pair = openai.same(target, (&asked, "json"), (&answered, "json"), "equal");
    assert_eq!(pair["prod"]["version"], "gpt-4o-mini-2024-07-18");
    let mut copy: Value = serde_json::from_slice(&openai.copied()).unwrap();
    assert_eq!(copy["model"].take(), "chat-v2", "the copy asks for the candidate's model");
    let mut original: Value = serde_json::from_slice(&asked.body).unwrap();
    original["model"].take();
    assert_eq!(copy, original, "and for nothing else");
    let noise = answered
        .with("chatcmpl-ASYMQRl3A3DXL9FWCK9tnGRcKIO7q", "chatcmpl-other")
        .with("1731368630", "1731368999")
        .with("fp_0ba0d124f1", "fp_other")
        .with("\"prompt_tokens\": 12", "\"prompt_tokens\": 13");
    openai.flags(target, &asked, &answered, &noise, &answered.with("This is a test.", "That is a test."));
    openai.flags(target, &asked, &answered, &noise, &answered.with("\"stop\"", "\"length\""));
}

#[test]
fn openai_tool_calls_differ_by_their_arguments_and_embeddings_by_their_numbers() {
    let mut openai = Family::start("openai");
    let target = "/v1/chat/completions";
    let (asked, answered) =
        (Message::recorded("openai/tools.request.json"), Message::recorded("openai/tools.response.json"));
    openai.same(target, (&asked, "json"), (&answered, "json"), "equal");
    let whole: Value = serde_json::from_slice(&answered.body).unwrap();
    let call = whole["choices"][0]["message"]["tool_calls"][0]["id"].as_str().expect("a call's id");
    openai.flags(target, &asked, &answered, &answered.with(call, "call_other"), &answered.with("Seattle", "Boston"));
    let asked = Message::recorded("openai/embedding-512.request.json");
    let answered = Message::recorded("openai/embedding-512.response.json");
    openai.same("/v1/embeddings", (&asked, "json"), (&answered, "json"), "equal");
    let whole: Value = serde_json::from_slice(&answered.body).unwrap();
    let first = whole["data"][0]["embedding"][0].as_f64().expect("a number");
    let text = String::from_utf8(answered.body.clone()).unwrap();
    let at = text.find("\"embedding\": [").expect("the vector") + "\"embedding\": [".len();
    let end = at + text[at..].find(',').expect("its first number");
    let moved = |by: f64| Message::json(format!("{}{}{}", &text[..at], first + by, &text[end..]));
    openai.flags("/v1/embeddings", &asked, &answered, &moved(0.0005), &moved(0.1));
}

#[test]
fn a_compressed_openai_answer_passes_as_it_is_and_is_recorded_decoded() {
    let mut openai = Family::start("openai");
    let asked = Message::recorded("openai/chat-gzip.request.json");
    let joke = Message::recorded("openai/chat-gzip.response.http");
    let another = Message::recorded("openai/chat-gzip-again.response.http");
    let pair = openai.pair("/v1/chat/completions", &asked, &joke, &joke);
    assert_eq!((&pair["result"], &pair["prod"]["body"]["encoding"]), (&json!("equal"), &json!("json")));
    let said: Value = serde_json::from_str(pair["prod"]["body"]["data"].as_str().unwrap()).unwrap();
    assert!(said["choices"][0]["message"]["content"].is_string(), "{said}");
    assert_eq!(pair["prod"]["bytes"], joke.body.len(), "the size on the wire");
    assert_eq!(openai.pair("/v1/chat/completions", &asked, &joke, &another)["result"], "differs");
}

#[test]
fn triton_answers_compare_by_number_as_json_and_by_byte_as_tensors() {
    let mut triton = Family::start("triton");
    let target = "/v2/models/resnet/infer";
    let asked = Message::recorded("triton/binary.request.http");
    let answered = Message::recorded("triton/binary.response.http");
    // Small numbers happen to be UTF-8: a record tells what bytes are, not what they mean.
    let pair = triton.same(target, (&asked, "utf8"), (&answered, "base64"), "equal");
    assert_eq!(pair["prod"]["headers"]["inference-header-content-length"], "178");
    let mut changed = answered.clone();
    *changed.body.last_mut().expect("a byte") ^= 1;
    assert_eq!(triton.pair(target, &asked, &answered, &changed)["result"], "differs");
    let raw = Message::recorded("triton/raw-binary.request.http");
    triton.same(target, (&raw, "utf8"), (&answered, "base64"), "equal");
    let asked = Message::recorded("triton/classification.request.json");
    let broken = Message::recorded("triton/classification-bad.response.json");
    triton.same(target, (&asked, "json"), (&broken, "utf8"), "equal");
    let logits = Message::recorded("oip-v2/cifar10-triton.response.json");
    let noise = logits.with("\"model_version\":\"1\"", "\"model_version\":\"2\"").with("-2.09648", "-2.09649");
    triton.flags(target, &asked, &logits, &noise, &logits.with("2.7956", "1.7956"));
}
