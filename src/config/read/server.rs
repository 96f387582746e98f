//! Floor 1: the `server` block.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::super::fault::Notes;
use super::super::keys;
use super::super::process::{Cidr, FileSinkConfig, Limits, Process, SinkConfig};
use super::super::raw::{Kind, Node};
use super::{Fields, duration, entries, list, size, some_time, text, whole};
use crate::types::Secret;

/// More threads than any machine has cores.
const THREADS_MAX: u64 = 1_024;

/// What a file without a `server` block means.
pub(super) fn nothing() -> Process {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    Process {
        listen: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080)],
        admin: local(9901),
        admin_token: None,
        workers: 0,
        shadow_threads: 0,
        drain: Duration::from_secs(30),
        drain_delay: Duration::ZERO,
        trusted_proxies: Vec::new(),
        labels: BTreeMap::new(),
        hash_key: None,
        limits: Limits::default(),
        sink: SinkConfig::File(FileSinkConfig::default()),
    }
}

/// The block, with `sink` left at its default.
pub(super) fn read(node: Option<&Node>, notes: &mut Notes) -> Process {
    let default = nothing();
    let Some(fields) = node.and_then(|node| Fields::open(node, &keys::SERVER, notes)) else { return default };
    let process = Process {
        listen: fields.read("listen", notes, listen).unwrap_or(default.listen),
        admin: fields.read("admin", notes, address).unwrap_or(default.admin),
        admin_token: fields.read("admin_token", notes, secret),
        workers: fields.read("workers", notes, |n, s| whole(n, 0, THREADS_MAX, s)).unwrap_or(0),
        shadow_threads: fields.read("shadow_threads", notes, |n, s| whole(n, 0, THREADS_MAX, s)).unwrap_or(0),
        drain: fields.read("drain", notes, duration).unwrap_or(default.drain),
        drain_delay: fields.read("drain_delay", notes, duration).unwrap_or(default.drain_delay),
        trusted_proxies: fields.read("trusted_proxies", notes, cidrs).unwrap_or_default(),
        labels: fields.read("labels", notes, labels).unwrap_or_default(),
        hash_key: fields.read("hash_key", notes, secret),
        limits: fields.read("limits", notes, limits).unwrap_or_default(),
        sink: default.sink,
    };
    check_admin(&fields, &process, notes);
    process
}

fn check_admin(fields: &Fields<'_>, process: &Process, notes: &mut Notes) {
    let at = fields.get("admin").map_or_else(|| fields.key_at("listen"), |node| node.at);
    if !process.admin.ip().to_canonical().is_loopback() && fields.get("admin_token").is_none() {
        let help = "add `admin_token: ${file:PATH}`, or listen on 127.0.0.1";
        notes.fault(at, "the admin interface is open to others and has no `admin_token`", help);
    }
    if process.admin.port() != 0 && process.listen.contains(&process.admin) {
        notes.fault(at, "`admin` and `listen` are the same address", "give the admin interface a port of its own");
    }
}

fn listen(node: &Node, notes: &mut Notes) -> Option<Vec<SocketAddr>> {
    let Kind::List(items) = &node.kind else { return address(node, notes).map(|address| vec![address]) };
    if items.is_empty() {
        notes.fault(node.at, "`listen` names no address", "write at least one, as in `0.0.0.0:8080`");
    }
    let mut addresses = Vec::with_capacity(items.len());
    for item in items {
        let Some(address) = listener(item, notes) else { continue };
        if address.port() != 0 && addresses.contains(&address) {
            notes.fault(item.at, "an address that is listed twice", "keep one of the two");
        }
        addresses.push(address);
    }
    Some(addresses)
}

fn listener(node: &Node, notes: &mut Notes) -> Option<SocketAddr> {
    if let Kind::Scalar(_) | Kind::Unresolved = &node.kind {
        return address(node, notes);
    }
    let fields = Fields::open(node, &keys::LISTEN, notes)?;
    if let Some(tls) = fields.get("tls") {
        super::later::tls(tls, fields.key_at("tls"), notes);
    }
    fields.required("address", notes).and_then(|node| address(node, notes))
}

/// An address to bind: `IP:PORT`; port 0 takes a free one.
fn address(node: &Node, notes: &mut Notes) -> Option<SocketAddr> {
    let written = text(node, notes)?;
    let parsed = written.parse().ok();
    if parsed.is_none() {
        let guess = match written.trim_start_matches(':').parse::<u16>() {
            Ok(port) => format!("write `0.0.0.0:{port}` for every interface, `127.0.0.1:{port}` for this machine only"),
            Err(_) => "write an IP address and a port, as in `0.0.0.0:8080` or `[::]:8080`".to_owned(),
        };
        let help = super::safe(node, guess, "write an IP address and a port, as in `0.0.0.0:8080`");
        notes.fault(node.at, format!("expected an address to listen on, found {}", node.shown()), help);
    }
    parsed
}

/// A text that is never shown.
pub(super) fn secret(node: &Node, notes: &mut Notes) -> Option<Secret> {
    notes.secret(node.at);
    let text = text(node, notes)?;
    if text.trim().is_empty() {
        notes.fault(node.at, "an empty secret", "give it a value, or leave the key out");
        return None;
    }
    Some(Secret::new(text))
}

fn cidrs(node: &Node, notes: &mut Notes) -> Option<Vec<Cidr>> {
    Some(list(node, notes)?.iter().filter_map(|item| cidr(item, notes)).collect())
}

/// `10.0.0.0/8`; an address alone is a network of one.
fn cidr(node: &Node, notes: &mut Notes) -> Option<Cidr> {
    let written = text(node, notes)?;
    let parsed = parse_cidr(written);
    if parsed.is_none() {
        let help = "write an address and how many of its bits count, as in `10.0.0.0/8`";
        notes.fault(node.at, format!("expected a network, found {}", node.shown()), help);
    }
    parsed
}

fn parse_cidr(text: &str) -> Option<Cidr> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let network: IpAddr = address.parse().ok()?;
    let width = if network.is_ipv4() { 32 } else { 128 };
    let prefix = bits.unwrap_or(width);
    if prefix > width {
        return None;
    }
    // Peers are looked up by their IPv4 address where they have one.
    match network.to_canonical() {
        canonical @ IpAddr::V4(_) if network.is_ipv6() && prefix >= 96 => {
            Some(Cidr { network: canonical, prefix: prefix - 96 })
        }
        _ => Some(Cidr { network, prefix }),
    }
}

fn labels(node: &Node, notes: &mut Notes) -> Option<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for entry in entries(node, "`labels`", notes)? {
        if let Some(value) = text(&entry.value, notes) {
            labels.insert(entry.key.clone(), value.to_owned());
        }
    }
    Some(labels)
}

fn limits(node: &Node, notes: &mut Notes) -> Option<Limits> {
    let fields = Fields::open(node, &keys::LIMITS, notes)?;
    let default = Limits::default();
    Some(Limits {
        connections: fields
            .read("connections", notes, |n, s| whole(n, 1, 10_000_000, s))
            .unwrap_or(default.connections),
        header_bytes: fields.read("header_bytes", notes, header_bytes).unwrap_or(default.header_bytes),
        header_timeout: fields.read("header_timeout", notes, some_time).unwrap_or(default.header_timeout),
        idle_timeout: fields.read("idle_timeout", notes, some_time).unwrap_or(default.idle_timeout),
        request_bytes: fields.read("request_bytes", notes, size).unwrap_or(default.request_bytes),
        shadow_bytes: fields.read("shadow_bytes", notes, size).unwrap_or(default.shadow_bytes),
    })
}

/// A head buffer: at least what an ordinary browser sends, and no more than one connection may be trusted with.
fn header_bytes(node: &Node, notes: &mut Notes) -> Option<usize> {
    let bytes: usize = size(node, notes)?;
    if !(1 << 10..=16 << 20).contains(&bytes) {
        notes.fault(
            node.at,
            format!("{} is out of range for a request's head", node.shown()),
            "from `1KiB` to `16MiB`",
        );
        return None;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_cidr;

    #[test]
    fn networks_hold_their_addresses() {
        let holds = |cidr: &str, ip: &str| parse_cidr(cidr).unwrap().contains(ip.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.9.8.7"));
        assert!(!holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("192.0.2.1", "192.0.2.1"));
        assert!(!holds("192.0.2.1", "192.0.2.2"));
        assert!(holds("0.0.0.0/0", "203.0.113.9"));
        assert!(holds("::ffff:10.0.0.0/104", "10.1.2.3"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(holds("2001:db8::/32", "2001:db8::1"));
        assert!(!holds("2001:db8::/32", "2001:db9::1"));
        for bad in ["10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/", "::/129", "10.0.0.0/-1"] {
            assert!(parse_cidr(bad).is_none(), "{bad}");
        }
    }
}
