//! What `deploy/` ships: every routing file in it, also those inside ConfigMaps, is one that this program takes without
//! a word, and the numbers that must agree between a routing file and its manifest do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use shadowpair::config::{Config, load};

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{error}: {}", path.display()))
}

fn manifest(path: &str) -> Value {
    let text = read(&deploy(path));
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Takes a routing file; secrets that are mounted only where it runs come from the test's own.
#[track_caller]
fn take(name: &str, text: &str) -> Config {
    let secret = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/secrets/token");
    let text = text.replace("/run/secrets/shadowpair/admin-token", &secret.display().to_string());
    let loaded = load::from_str(name, &text).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(loaded.warnings.is_empty(), "{name}: {:?}", loaded.warnings);
    loaded.config
}

/// The routing file of a ConfigMap, where its workload looks for it.
fn mounted(configmap: &str) -> Config {
    let map = manifest(configmap);
    let text = map["data"]["shadowpair.yaml"].as_str().expect("the key that the workload mounts");
    take(configmap, text)
}

#[test]
fn every_example_is_a_good_routing_file() {
    let files = std::fs::read_dir(deploy("examples")).expect("the examples").map(|file| file.expect("a file").path());
    let mut names: Vec<String> = files
        .map(|path| {
            take(&path.display().to_string(), &read(&path));
            path.file_stem().expect("a name").to_string_lossy().into_owned()
        })
        .collect();
    names.sort();
    assert_eq!(names, ["kserve-v1", "mlflow", "oip", "openai", "seldon", "tfserving", "triton"]);
}

#[test]
fn workloads_give_their_routing_file_time_to_drain_and_probe_its_admin_port() {
    for (configmap, workload) in [
        ("kubernetes/configmap.yaml", "kubernetes/deployment.yaml"),
        ("kubernetes/with-disk/configmap.yaml", "kubernetes/with-disk/statefulset.yaml"),
    ] {
        let process = mounted(configmap).process;
        let pod = &manifest(workload)["spec"]["template"]["spec"];
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
        let drain = process.drain_delay + process.drain + Duration::from_secs(10);
        assert_eq!(Duration::from_secs(grace), drain, "{workload}");
        let container = &pod["containers"][0];
        let ports = container["ports"].as_array().expect("ports").iter();
        let port =
            |name: &str| ports.clone().find(|port| port["name"] == name).expect("the port")["containerPort"].clone();
        assert_eq!((port("http"), port("admin")), (process.listen[0].port().into(), process.admin.port().into()));
        for probe in ["readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], "admin", "{workload}: {probe}");
        }
        assert!(!process.drain_delay.is_zero(), "endpoints are told before the pod stops listening");
    }
}

#[test]
fn services_and_monitors_select_the_pods_and_ports_that_there_are() {
    for workload in ["kubernetes/deployment.yaml", "kubernetes/with-disk/statefulset.yaml"] {
        let pod = &manifest(workload)["spec"]["template"];
        let labels = &pod["metadata"]["labels"];
        let ports = pod["spec"]["containers"][0]["ports"].as_array().expect("ports");
        let named = |name: &Value| ports.iter().any(|port| port["name"] == *name);
        for service in ["kubernetes/service.yaml", "kubernetes/with-disk/service.yaml"] {
            let spec = &manifest(service)["spec"];
            assert_eq!(&spec["selector"], labels, "{service}");
            assert!(named(&spec["ports"][0]["targetPort"]), "{service}");
        }
        for selecting in [workload, "kubernetes/podmonitor.yaml", "kubernetes/poddisruptionbudget.yaml"] {
            assert_eq!(&manifest(selecting)["spec"]["selector"]["matchLabels"], labels, "{selecting}");
        }
        let monitor = &manifest("kubernetes/podmonitor.yaml")["spec"]["podMetricsEndpoints"][0];
        assert!(monitor["port"] == "admin" && named(&monitor["port"]));
    }
    let set = &manifest("kubernetes/with-disk/statefulset.yaml")["spec"]["serviceName"];
    assert_eq!(*set, manifest("kubernetes/with-disk/service.yaml")["metadata"]["name"]);
}

#[test]
fn the_routing_file_of_compose_is_good_and_drains_in_time() {
    let process = take("compose/shadowpair.yaml", &read(&deploy("compose/shadowpair.yaml"))).process;
    let compose = manifest("compose.yaml");
    let grace = compose["services"]["shadowpair"]["stop_grace_period"].as_str().expect("a grace period");
    let drain = process.drain_delay + process.drain + Duration::from_secs(10);
    assert_eq!(grace, format!("{}s", drain.as_secs()));
}

#[test]
fn the_service_unit_stops_when_a_default_drain_is_over() {
    let unit = read(&deploy("systemd/shadowpair.service"));
    let seconds = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).expect("a time to stop");
    let default = take("least", &read(&deploy("examples/oip.yaml"))).process;
    assert!(seconds.parse::<u64>().expect("seconds") >= default.drain.as_secs() + 10);
}

/// The image copies what it is built from, and cargo refuses a manifest of which a part is missing.
#[test]
fn the_image_has_all_that_its_build_asks_for() {
    let (root, image) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    let dockerfile = read(&deploy("Dockerfile"));
    let build = dockerfile.split("RUN ").next().unwrap();
    for line in build.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<&str> = line.split(' ').collect();
        let (to, from) = words.split_last().unwrap();
        let under = |from: &&str| *to == "./" || from == to || (to.ends_with('/') && from.starts_with(to));
        assert!(from.iter().all(under), "COPY {line}: to where it stands in the repository");
        let mut copy = std::process::Command::new("cp");
        let copied = copy.args(["-r", "--parents"]).args(from).arg(image.path()).current_dir(root).status().unwrap();
        assert!(copied.success(), "COPY {line}");
    }
    let instructions = dockerfile.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
    for program in instructions.filter(|word| word.starts_with("deploy/")) {
        assert!(image.path().join(program).exists(), "{program} is called, and not copied");
    }
    // It reads the manifest as a build does; whether every crate of every system is in the cache is not the question.
    let mut fetch = std::process::Command::new(env!("CARGO"));
    let said = fetch.args(["fetch", "--offline", "--locked"]).current_dir(image.path()).output().unwrap().stderr;
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains("failed to parse manifest"), "{said}");
}
