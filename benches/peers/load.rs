//! The client. With `--rate` it is an open loop: request `i` is due at a moment drawn beforehand (Poisson arrivals, the
//! same for every peer), and its latency counts from then, also where no connection was free to send it (coordinated
//! omission, <https://github.com/giltene/wrk2>). Without, each connection sends its next request after its answer.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Options, head, json};

/// The timer's key among the connections.
const TIMER: u64 = u64::MAX;

struct Conn {
    socket: TcpStream,
    /// When the request under way was due.
    due: Option<Instant>,
    unsent: usize,
    read: Vec<u8>,
}

struct Load {
    target: SocketAddr,
    request: Vec<u8>,
    epoll: OwnedFd,
    /// Wakes the loop to the microsecond: `epoll_wait` alone knows milliseconds, and would bundle requests.
    timer: OwnedFd,
    conns: Vec<Conn>,
    free: Vec<usize>,
    backlog: VecDeque<Instant>,
    latencies: Histogram<u64>,
    counting_from: Instant,
    sent: u64,
    answered: u64,
    counted: u64,
    not_ok: u64,
    broken: u64,
}

/// Sends, and prints one line of JSON: counts, requests per second, latencies in microseconds.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let target: SocketAddr = options.get("target").ok_or("--target ADDRESS is needed")?.parse()?;
    let (rate, seconds) = (options.number("rate", 0.0)?, options.number("seconds", 5.0)?);
    let warm_up = options.number("warm-up", 0.5)?;
    let most = options.number("requests", f64::MAX)?;
    let connections = options.number("connections", 64.0)? as usize;
    let path = options.get("path").unwrap_or("/v1/models/iris:predict");
    let body = json(options.number("body", 955.0)? as usize);
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: models.example\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    let begun = Instant::now();
    let mut load = Load {
        target,
        request: request.into_bytes(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?,
        conns: Vec::new(),
        free: Vec::new(),
        backlog: VecDeque::new(),
        latencies: Histogram::new(3)?,
        counting_from: begun + Duration::from_secs_f64(warm_up),
        sent: 0,
        answered: 0,
        counted: 0,
        not_ok: 0,
        broken: 0,
    };
    epoll::add(
        &load.epoll,
        &load.timer,
        epoll::EventData::new_u64(TIMER),
        epoll::EventFlags::IN | epoll::EventFlags::ET,
    )?;
    for at in 0..connections {
        let conn = load.connect(at)?;
        load.conns.push(conn);
        load.free.push(at);
    }
    let ends = begun + Duration::from_secs_f64(warm_up + seconds);
    if rate > 0.0 {
        load.open_loop(rate, begun, ends, most as u64)?
    } else {
        load.closed_loop(ends)?
    }
    let took = load.counting_from.elapsed().min(ends - load.counting_from).as_secs_f64();
    let at = |q: f64| load.latencies.value_at_quantile(q) as f64 / 1000.0;
    println!(
        r#"{{"sent":{},"answered":{},"counted":{},"not_ok":{},"broken":{},"rps":{:.0},"mean_us":{:.1},"p50_us":{:.1},"p99_us":{:.1},"p999_us":{:.1},"max_us":{:.1}}}"#,
        load.sent,
        load.answered,
        load.counted,
        load.not_ok,
        load.broken,
        load.counted as f64 / took,
        load.latencies.mean() / 1000.0,
        at(0.5),
        at(0.99),
        at(0.999),
        load.latencies.max() as f64 / 1000.0,
    );
    Ok(())
}

impl Load {
    fn connect(&self, at: usize) -> Result<Conn, Box<dyn Error>> {
        let socket = TcpStream::connect(self.target)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, socket.as_fd(), epoll::EventData::new_u64(at as u64), flags)?;
        Ok(Conn { socket, due: None, unsent: 0, read: Vec::with_capacity(4096) })
    }

    fn open_loop(&mut self, rate: f64, begun: Instant, ends: Instant, most: u64) -> Result<(), Box<dyn Error>> {
        // The same schedule in every run.
        let mut random = fastrand::Rng::with_seed(7);
        let mut gap = || Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
        let mut next = begun + gap();
        let (mut drawn, give_up) = (0_u64, ends + Duration::from_secs(10));
        loop {
            let now = Instant::now();
            while next <= now && next < ends && drawn < most {
                self.backlog.push_back(next);
                drawn += 1;
                next += gap();
            }
            while !self.free.is_empty()
                && let Some(due) = self.backlog.pop_front()
                && let Some(at) = self.free.pop()
            {
                self.send(at, due)?;
            }
            let over = next >= ends || drawn >= most;
            let waiting = !self.backlog.is_empty() || self.free.len() < self.conns.len();
            if (over && !waiting) || now >= give_up {
                return Ok(());
            }
            let wake = if over { Duration::from_millis(50) } else { next.saturating_duration_since(Instant::now()) };
            self.turn(wake)?;
        }
    }

    fn closed_loop(&mut self, ends: Instant) -> Result<(), Box<dyn Error>> {
        loop {
            let now = Instant::now();
            if now >= ends {
                return Ok(());
            }
            while let Some(at) = self.free.pop() {
                self.send(at, Instant::now())?;
            }
            self.turn(Duration::from_millis(50))?;
        }
    }

    fn send(&mut self, at: usize, due: Instant) -> Result<(), Box<dyn Error>> {
        self.sent += 1;
        self.conns[at].due = Some(due);
        self.conns[at].unsent = self.request.len();
        self.go_on_sending(at)
    }

    fn go_on_sending(&mut self, at: usize) -> Result<(), Box<dyn Error>> {
        while self.conns[at].unsent > 0 {
            let conn = &mut self.conns[at];
            match conn.socket.write(&self.request[self.request.len() - conn.unsent..]) {
                Ok(written) => conn.unsent -= written,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return self.lost(at),
            }
        }
        Ok(())
    }

    /// The connection is gone: what was under way is counted, and a new one takes its place.
    fn lost(&mut self, at: usize) -> Result<(), Box<dyn Error>> {
        let busy = self.conns[at].due.is_some();
        self.broken += u64::from(busy);
        self.conns[at] = self.connect(at)?;
        if busy {
            self.free.push(at);
        }
        Ok(())
    }

    fn turn(&mut self, wake: Duration) -> Result<(), Box<dyn Error>> {
        let mut events = Vec::with_capacity(128);
        let at = |time: Duration| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        // Zero would disarm it.
        let due = Itimerspec { it_interval: at(Duration::ZERO), it_value: at(wake.max(Duration::from_nanos(1))) };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &due)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => {}
            other => drop(other?),
        }
        for event in events.iter().filter(|event| event.data.u64() != TIMER) {
            let at = event.data.u64() as usize;
            self.go_on_sending(at)?;
            self.receive(at)?;
        }
        Ok(())
    }

    fn receive(&mut self, at: usize) -> Result<(), Box<dyn Error>> {
        let mut piece = [0_u8; 64 << 10];
        loop {
            let conn = &mut self.conns[at];
            match conn.socket.read(&mut piece) {
                Ok(0) => return self.lost(at),
                Ok(read) => {
                    conn.read.extend_from_slice(&piece[..read]);
                    if read < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return self.lost(at),
            }
        }
        let conn = &mut self.conns[at];
        let Some((end, length)) = head(&conn.read) else { return Ok(()) };
        if conn.read.len() < end + length {
            return Ok(());
        }
        let ok = conn.read.starts_with(b"HTTP/1.1 200 ");
        conn.read.clear();
        self.answered += 1;
        self.not_ok += u64::from(!ok);
        if let Some(due) = conn.due.take() {
            self.free.push(at);
            if due >= self.counting_from {
                self.counted += 1;
                self.latencies.record(u64::try_from(due.elapsed().as_nanos())?)?;
            }
        }
        Ok(())
    }
}
