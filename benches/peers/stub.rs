//! A model server: it reads a request and answers with a fixed body, or fails in one of the ways that candidates do.

use std::collections::HashMap;
use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use super::{Options, head, json};

/// How it answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Good,
    Hang,
    Reset,
}

struct Client {
    socket: TcpStream,
    read: Vec<u8>,
    /// Answers not yet written whole: where the first of them stands.
    owed: usize,
    written: usize,
}

/// Runs until it is ended.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let mode = match options.get("mode").unwrap_or("good") {
        "good" => Mode::Good,
        "hang" => Mode::Hang,
        "reset" => Mode::Reset,
        other => return Err(format!("--mode {other}: one of good, hang, reset").into()),
    };
    let body = json(options.number("body", 200.0)? as usize);
    let status = options.get("status").unwrap_or("200 OK");
    let length = body.len();
    let answer =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    let listener = TcpListener::bind(options.get("listen").ok_or("--listen ADDRESS is needed")?)?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    let (mut clients, mut next) = (HashMap::<u64, Client>::new(), 0_u64);
    let mut events = Vec::with_capacity(256);
    loop {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        for event in &events {
            let key = event.data.u64();
            if key > 0 {
                let stays = clients.get_mut(&key).is_some_and(|client| client.serve(mode, answer.as_bytes()));
                if !stays {
                    clients.remove(&key);
                }
                continue;
            }
            while let Ok((socket, _)) = listener.accept() {
                socket.set_nonblocking(true)?;
                socket.set_nodelay(true)?;
                next += 1;
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&epoll, socket.as_fd(), epoll::EventData::new_u64(next), flags)?;
                clients.insert(next, Client { socket, read: Vec::new(), owed: 0, written: 0 });
            }
        }
    }
}

impl Client {
    /// Reads and answers what there is; false where the connection is over.
    fn serve(&mut self, mode: Mode, answer: &[u8]) -> bool {
        let mut piece = [0_u8; 64 << 10];
        loop {
            match self.socket.read(&mut piece) {
                Ok(0) => return false,
                Ok(read) => {
                    self.read.extend_from_slice(&piece[..read]);
                    if read < piece.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        while let Some((end, length)) = head(&self.read) {
            if self.read.len() < end + length {
                break;
            }
            self.read.drain(..end + length);
            match mode {
                Mode::Good => self.owed += 1,
                Mode::Hang => {}
                Mode::Reset => {
                    // Closed with zero linger: RST.
                    let _ = rustix::net::sockopt::set_socket_linger(&self.socket, Some(std::time::Duration::ZERO));
                    return false;
                }
            }
        }
        while self.owed > 0 {
            match self.socket.write(&answer[self.written..]) {
                Ok(written) if self.written + written == answer.len() => {
                    self.owed -= 1;
                    self.written = 0;
                }
                Ok(written) => self.written += written,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
