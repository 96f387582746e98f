//! Balance between workers: a few busy long-lived clients do not stay on one of them while another is idle.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::reload::says;
use crate::support::{Client, Plan, post, until};

/// Asks over one connection until it is told to connect anew, or to stop. Every answer is good.
fn ask_until_told(client: &mut Client, stop: &AtomicBool) -> bool {
    while !stop.load(Ordering::SeqCst) {
        let answer = client.ask(post("/", "{}"));
        assert_eq!(answer.status, 200);
        if answer.value("connection").as_deref() == Some("close") {
            assert!(client.is_closed());
            return true;
        }
    }
    false
}

#[test]
fn a_busy_client_connects_anew_when_its_worker_stays_far_above_the_others() {
    let p = says(1);
    let bench = Plan::prod(p.address).server("workers: 2").start();
    // Handed out in turns, so that every other one is on the same worker.
    let mut clients: Vec<Client> = (0..8).map(|_| bench.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.ask(post("/", "{}")).status, 200));
    let (stop, told) = (AtomicBool::new(false), Mutex::new(0));
    std::thread::scope(|scope| {
        for mut client in clients.drain(..).step_by(2) {
            let (stop, told) = (&stop, &told);
            scope.spawn(move || {
                if ask_until_told(&mut client, stop) {
                    *told.lock().unwrap() += 1;
                }
            });
        }
        until("a client is told", || *told.lock().unwrap() > 0);
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!(*told.lock().unwrap(), 1, "one at a time");
}
