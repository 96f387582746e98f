//! The names of endpoints, resolved again and again: after a redeploy a name stands for another address, and whoever
//! resolved it once would ask a dead one for ever.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::live::LiveReader;
use crate::logging::Limited;
use crate::snapshot::Snapshot;
use crate::upstream::endpoint::Endpoint;

/// How often names are resolved anew: a moved endpoint is found within its record's time to live plus this.
const RESOLVE_EVERY: Duration = Duration::from_secs(5);
/// How long one name may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(4);

/// Resolves the names of all endpoints, again and again. `first` is told when each has been tried once.
pub async fn run(live: LiveReader<Snapshot>, first: oneshot::Sender<()>) {
    let log = Limited::default();
    let mut first = Some(first);
    loop {
        let snapshot = live.load();
        for (_, endpoint) in snapshot.endpoints().filter(|(_, endpoint)| endpoint.is_named()) {
            resolve_one(endpoint, &log).await;
        }
        drop(snapshot);
        if let Some(first) = first.take() {
            // Whoever waited may have given up.
            let _ = first.send(());
        }
        tokio::time::sleep(RESOLVE_EVERY).await;
    }
}

/// Where a name resolves to nothing, the last good addresses stay.
async fn resolve_one(endpoint: &Arc<Endpoint>, log: &Limited) {
    let host = (endpoint.url.host.as_str(), endpoint.url.port);
    let failure = match tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host(host)).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<SocketAddr> = found.collect();
            addresses.sort();
            addresses.dedup();
            if !addresses.is_empty() {
                return endpoint.resolved(addresses);
            }
            "no address".to_owned()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "no answer in time".to_owned(),
    };
    if let Some(held_back) = log.pass() {
        let kept = endpoint.addresses().len();
        tracing::warn!(endpoint = &*endpoint.url.label, error = failure, kept, held_back, "a name does not resolve");
    }
}
