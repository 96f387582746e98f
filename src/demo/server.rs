//! Floor 7: a model server for the demo: one model behind the Open Inference Protocol, on a port and a thread of
//! its own. It computes its answers, so that the latencies the comparison shows are real, and it answers bad
//! input as a real server would, because the reader may point curl at it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use super::models::{DIGITS, Model, PIXELS};
use crate::lifecycle::{self, Priority};

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct ModelServer {
    /// Where it listens.
    pub(super) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ModelServer {
    /// Starts one on a free port of the loopback interface.
    pub(super) fn start(model: Arc<Model>) -> Result<Self> {
        let name = model.name;
        let bound = std::net::TcpListener::bind("127.0.0.1:0").context("no free port on 127.0.0.1")?;
        bound.set_nonblocking(true).context("the port cannot be used")?;
        let address = bound.local_addr().context("the port cannot be used")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let Ok(listener) = TcpListener::from_std(bound) else { return };
            let listener = listener.tap_io(|stream| {
                // Without it an answer is right all the same, and perhaps late.
                let _ = stream.set_nodelay(true);
            });
            // Connections that the proxy keeps are cut off with the runtime: nobody waits for them any more.
            tokio::select! {
                _ = axum::serve(listener, service(model)) => {}
                _ = stopped => {}
            }
        };
        let run = move || runtime.block_on(serve);
        let thread = lifecycle::thread(&format!("demo-{name}"), Priority::Normal, run)
            .with_context(|| format!("no thread for {name}"))?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A server that panicked has been seen by its callers already.
            let _ = thread.join();
        }
    }
}

/// What stands in an answer that is not one: the protocol's `{"error"}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

fn service(model: Arc<Model>) -> Router {
    Router::new()
        .route("/v2/health/live", get(async || Json(json!({"live": true}))))
        .route("/v2/health/ready", get(async || Json(json!({"ready": true}))))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/ready", get(ready))
        .route("/v2/models/{name}/infer", post(infer))
        .fallback(async || Refusal(StatusCode::NOT_FOUND, "there is nothing at this path".into()))
        .method_not_allowed_fallback(async || {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method".into())
        })
        .with_state(model)
}

fn known(model: &Model, name: &str) -> Result<(), Refusal> {
    if name == model.name {
        return Ok(());
    }
    Err(Refusal(StatusCode::NOT_FOUND, format!("there is no model of this name here, only {}", model.name)))
}

async fn metadata(State(model): State<Arc<Model>>, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    known(&model, &name)?;
    Ok(Json(json!({
        "name": model.name,
        "versions": [model.version],
        "platform": "shadowpair_demo",
        "inputs": [{"name": "pixels", "datatype": "FP64", "shape": [-1, PIXELS]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, DIGITS]},
        ],
    })))
}

async fn ready(State(model): State<Arc<Model>>, Path(name): Path<String>) -> Result<Json<Value>, Refusal> {
    known(&model, &name)?;
    Ok(Json(json!({"name": model.name, "ready": true})))
}

async fn infer(
    State(model): State<Arc<Model>>,
    Path(name): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Refusal> {
    known(&model, &name)?;
    let body = body.map_err(|refused| Refusal(refused.status(), refused.body_text()))?;
    let answer = answer(&model, &body).map_err(|wrong| Refusal(StatusCode::BAD_REQUEST, wrong))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], answer).into_response())
}

#[derive(Deserialize)]
struct InferRequest {
    id: Option<String>,
    inputs: Vec<Input>,
}

#[derive(Deserialize)]
struct Input {
    shape: Vec<usize>,
    datatype: String,
    data: Data,
}

/// The protocol lets a tensor be flat or nested.
#[derive(Deserialize)]
#[serde(untagged)]
enum Data {
    Flat(Vec<f64>),
    Nested(Vec<Vec<f64>>),
}

#[derive(Serialize)]
struct InferAnswer<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: [Output; 2],
}

#[derive(Serialize)]
struct Output {
    name: &'static str,
    shape: Vec<usize>,
    datatype: &'static str,
    data: Numbers,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Numbers {
    Labels(Vec<usize>),
    Probabilities(Vec<f64>),
}

/// The bytes with which the model answers these bytes, always the same ones; or what is wrong with them.
pub(super) fn answer(model: &Model, body: &[u8]) -> Result<Vec<u8>, String> {
    let request: InferRequest =
        serde_json::from_slice(body).map_err(|error| format!("not an inference request: {error}"))?;
    let [input] = request.inputs.as_slice() else { return Err("`inputs` must hold one tensor".into()) };
    let images = images(input)?;
    let said: Vec<_> = images.iter().map(|image| model.predict(image)).collect();
    let labels = said.iter().map(|prediction| prediction.digit).collect();
    let probabilities = said.iter().flat_map(|prediction| prediction.probabilities).collect();
    let answer = InferAnswer {
        model_name: model.name,
        model_version: model.version,
        id: request.id,
        outputs: [
            Output { name: "label", shape: vec![said.len()], datatype: "INT64", data: Numbers::Labels(labels) },
            Output {
                name: "probabilities",
                shape: vec![said.len(), DIGITS],
                datatype: "FP64",
                data: Numbers::Probabilities(probabilities),
            },
        ],
    };
    serde_json::to_vec(&answer).map_err(|error| error.to_string())
}

fn images(input: &Input) -> Result<Vec<[f64; PIXELS]>, String> {
    if input.datatype != "FP64" {
        return Err("the tensor's datatype must be FP64".into());
    }
    let flat = match &input.data {
        Data::Flat(numbers) => numbers.clone(),
        Data::Nested(rows) => rows.concat(),
    };
    let (images, rest) = flat.as_chunks::<PIXELS>();
    if input.shape != [images.len(), PIXELS] || !rest.is_empty() {
        return Err(format!("the tensor's shape must be [n, {PIXELS}], with as many numbers in `data`"));
    }
    Ok(images.to_vec())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use axum::body::Body;
    use http::Request;
    use tower::ServiceExt;

    use super::*;
    use crate::demo::models::{linear, rows};

    fn ask(server: &ModelServer, method: &str, path: &str, body: &str) -> (String, Value) {
        let mut stream = TcpStream::connect(server.address).expect("a listening server");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
        let fields = format!("host: x\r\nconnection: close\r\ncontent-length: {}", body.len());
        let request = format!("{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        (head[9..12].to_owned(), serde_json::from_str(body).expect("a JSON body"))
    }

    fn server() -> ModelServer {
        ModelServer::start(Arc::new(linear().expect("coefficients"))).expect("started")
    }

    #[test]
    fn an_image_gets_its_label_and_probabilities() {
        let row = &rows().expect("rows")[0];
        let body = json!({"id": "7", "inputs": [
            {"name": "pixels", "shape": [1, 64], "datatype": "FP64", "data": row.features().to_vec()}]});
        let (status, answer) = ask(&server(), "POST", "/v2/models/digits-linear/infer", &body.to_string());
        let said = linear().expect("coefficients").predict(&row.features());
        assert_eq!(status, "200");
        assert_eq!(answer["id"], "7");
        assert_eq!(answer["model_name"], "digits-linear");
        assert_eq!(
            answer["outputs"][0],
            json!({"name": "label", "shape": [1], "datatype": "INT64", "data": [said.digit]})
        );
        assert_eq!(answer["outputs"][1]["shape"], json!([1, 10]));
        assert_eq!(answer["outputs"][1]["data"], json!(said.probabilities.to_vec()));
    }

    #[test]
    fn nested_rows_are_a_batch() {
        let nested: Vec<Vec<f64>> = rows().expect("rows")[..3].iter().map(|row| row.features().to_vec()).collect();
        let body = json!({"inputs": [{"name": "pixels", "shape": [3, 64], "datatype": "FP64", "data": nested}]});
        let model = linear().expect("coefficients");
        let answer: Value =
            serde_json::from_slice(&answer(&model, body.to_string().as_bytes()).expect("good")).expect("JSON");
        assert_eq!(answer["outputs"][0]["shape"], json!([3]));
        assert_eq!(answer["outputs"][1]["data"].as_array().expect("flat").len(), 30);
        assert!(answer.get("id").is_none());
    }

    #[test]
    fn probes_and_metadata_answer() {
        let server = server();
        assert_eq!(ask(&server, "GET", "/v2/health/ready", "").0, "200");
        assert_eq!(ask(&server, "GET", "/v2/models/digits-linear/ready", "").0, "200");
        let (status, about) = ask(&server, "GET", "/v2/models/digits-linear", "");
        assert_eq!((status.as_str(), &about["inputs"][0]["shape"]), ("200", &json!([-1, 64])));
    }

    #[test]
    fn bad_input_is_refused_in_json_that_says_why() {
        let server = server();
        let infer = "/v2/models/digits-linear/infer";
        let tensor = |shape: Value, datatype: &str, data: Value| {
            json!({"inputs": [{"name": "pixels", "shape": shape, "datatype": datatype, "data": data}]}).to_string()
        };
        let zeros = json!(vec![0.0; PIXELS]);
        let cases = [
            ("POST", infer, "{".to_owned(), "400", "not an inference request"),
            ("POST", infer, r#"{"inputs": []}"#.to_owned(), "400", "one tensor"),
            ("POST", infer, tensor(json!([1, 64]), "INT8", zeros.clone()), "400", "FP64"),
            ("POST", infer, tensor(json!([2, 64]), "FP64", zeros.clone()), "400", "[n, 64]"),
            ("POST", infer, tensor(json!([1, 63]), "FP64", json!(vec![0.0; 63])), "400", "[n, 64]"),
            ("POST", "/v2/models/other/infer", "{}".to_owned(), "404", "only digits-linear"),
            ("GET", infer, String::new(), "405", "another method"),
            ("GET", "/elsewhere", String::new(), "404", "nothing"),
        ];
        for (method, path, body, status, says) in cases {
            let (got, answer) = ask(&server, method, path, &body);
            let error = answer["error"].as_str().expect("an error");
            assert_eq!(got, status, "{method} {path}: {error}");
            assert!(error.contains(says), "{error:?} does not say {says:?}");
        }
    }

    #[test]
    fn a_body_over_the_limit_is_refused_in_json() {
        let service = service(Arc::new(linear().expect("coefficients")));
        let body = Body::from(vec![b' '; 3 << 20]);
        let request = Request::post("/v2/models/digits-linear/infer").body(body).expect("a request");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let answer = service.oneshot(request).await.expect("infallible");
            assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
            let bytes = axum::body::to_bytes(answer.into_body(), 1 << 20).await.expect("a body");
            let answer: Value = serde_json::from_slice(&bytes).expect("JSON");
            assert!(answer["error"].as_str().expect("an error").contains("limit"), "{answer}");
        });
    }

    #[test]
    fn a_dropped_server_gives_its_port_back_although_a_client_holds_on() {
        let server = server();
        let address = server.address;
        let _idle = TcpStream::connect(address).expect("a listening server");
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
